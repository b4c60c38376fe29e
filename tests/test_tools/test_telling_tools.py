"""The tools that only tell."""

import re

import pytest
from mmengine.config import Config

from .tool_calls import REPO, TINY_SEG, error_of

GET_FLOPS = 'analysis_tools/get_flops.py'


def test_print_config(call, capsys, tmp_path) -> None:
    """What is printed is the whole config, with the options put in."""
    saved = tmp_path / 'saved.py'
    status = call(
        'misc/print_config.py', REPO / 'configs/fcn_rfa_r50_voc.py',
        '--save-path', saved, '--cfg-options', 'model.backbone.depth=34',
    )  # fmt: skip
    assert status == 0
    printed = capsys.readouterr().out
    printed = printed[printed.index('backend_args') :]
    for config in (
        Config.fromstring(printed, '.py'),
        Config.fromfile(saved),
    ):
        assert config.model.backbone.depth == 34
        assert config.model.backbone.attention_conv.type == 'RFAConv'
        assert config.train_cfg.max_iters > 1000  # inherited


def test_a_config_is_not_replaced_by_itself(call, capsys, tmp_path) -> None:
    own = tmp_path / 'own.py'
    own.write_text(TINY_SEG.read_text())
    for name, words in (
        (own, 'another file to write than the one to read'),
        (tmp_path / 'a.txt', 'a name that ends in .py'),
        (own / 'a.py', 'own.py is not a folder'),
    ):
        status = call('misc/print_config.py', own, '--save-path', name)
        assert words in error_of(status, capsys.readouterr().err)
    assert own.read_text() == TINY_SEG.read_text()


def counts(text: str) -> tuple[float, float]:
    """Parameters in M and GFLOPs of an output."""
    return (
        float(re.search(r'parameters: ([\d.]+) M', text)[1]),
        float(re.search(r'forward: ([\d.]+) GFLOPs', text)[1]),
    )


def test_resnet18_as_published(call, capsys) -> None:
    status = call(
        GET_FLOPS, '--backbone', 'RFAResNet', '--depth', 18,
        '--num-classes', 1000,
    )  # fmt: skip
    assert status == 0
    params, flops = counts(capsys.readouterr().out)
    assert params == pytest.approx(11.690, abs=0.001)
    assert flops == pytest.approx(1.824, rel=0.01)


def test_operator_adds_what_its_convolutions_cost(call, capsys) -> None:
    """RFAConv beside a plain 3x3, counted by hand at 512x512.

    For C channels at Ho x Wo: 9C x 9 (the grouped 3x3) per position and
    2 x 9C for its norm. The last convolution costs as before.
    """
    arguments = '--backbone', 'RFAResNet', '--shape', 512
    assert call(GET_FLOPS, *arguments) == 0
    plain = counts(capsys.readouterr().out)[1]
    assert call(GET_FLOPS, *arguments, '--attention-conv', 'RFAConv') == 0
    operator = counts(capsys.readouterr().out)[1]
    added = sum(
        channels * (81 + 18) * size**2
        for channels, size in zip(
            (64, 64, 64, 128, 128, 256, 256, 512),
            (128, 128, 64, 64, 32, 32, 16, 16),
            strict=True,
        )
    )
    assert added > 0.3e9  # of which three digits are printed
    assert operator - plain == pytest.approx(added / 1e9, abs=0.0011)


def test_whole_network(call, capsys) -> None:
    """The head is counted too, and a larger image costs more."""
    found = []
    for shape in ((64, 64), (64, 128)):
        assert call(GET_FLOPS, TINY_SEG, '--shape', *shape) == 0
        found.append(counts(capsys.readouterr().out))
    (params, small), (same, large) = found
    assert params == same > 11.2  # ResNet-18 without its linear layer
    assert large == pytest.approx(2 * small, rel=0.02)


def test_detector(call, capsys) -> None:
    pytest.importorskip('mmcv._ext', reason='needs the operators of mmcv')
    config = REPO / 'configs/faster_rcnn/faster-rcnn_r18_fpn_1xb4-36e_bccd.py'
    assert call(GET_FLOPS, config, '--shape', 64) == 0
    params, flops = counts(capsys.readouterr().out)
    assert params > 28
    assert flops > 1


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        ([], 'neither'),
        ([TINY_SEG, '--backbone', 'RFAResNet'], 'both'),
        ([TINY_SEG, '--shape', 0], '--shape'),
        (['--backbone', 'RFAResNet', '--depth', 19], 'got 19'),
        (['--backbone', 'ResNett'], 'ResNett is not in the'),
        (['--backbone', 'RFAResNet', '--num-classes', -1], 'got -1'),
        ([TINY_SEG, '--num-classes', 5], '--num-classes'),
        (
            [TINY_SEG, '--cfg-options', 'model.decode_head.in_index=9'],
            'model cannot look at 224 x 224',
        ),
    ],
)
def test_get_flops_bad_input(call, capsys, arguments, expected) -> None:
    status = call(GET_FLOPS, *arguments)
    assert expected in error_of(status, capsys.readouterr().err)
