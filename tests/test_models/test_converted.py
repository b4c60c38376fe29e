"""Operators in models of mmseg and mmdet by a few lines of a config."""

import copy
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from torch import nn

import mmrfa.models  # noqa: F401
from mmrfa.checkpoints.names import operators_in
from mmrfa.errors import InputError
from mmrfa.layers import RFAConv

# Detectors need mmcv's operators, as mmyolo does.
pytestmark = pytest.mark.usefixtures('mmyolo')

PAGE = Path(__file__).resolve().parents[2] / 'docs' / 'configs.md'
SECTION = PAGE.read_text().split('## Any other network')[1].split('\n## ')[0]
EXAMPLE = re.search(r'```python\n(.*?)```', SECTION, re.DOTALL)[1]
ROWS = re.findall(r'^\| `(\w+::\w+/[^`]+)` \| `([^`]+)` \|', SECTION, re.M)
# How many convolutions they choose.
COUNTS = {'retinanet': 16, 'upernet': 3, 'rtmdet': 4, 'yolox': 4, 'mask': 4}


@cache
def _examples() -> dict[str, Config]:
    """The example of the page, and the rows of its table put into it."""
    codes = [EXAMPLE]
    for base, where in ROWS:
        code = re.sub("mmdet::[^']+", base, EXAMPLE)
        code = re.sub("where='[^']+", f"where='{where}", code)
        codes.append(code.replace("    start='exact',\n", ''))
    return {
        re.search('::.*/([a-z]+)', code)[1]: Config.fromstring(code, '.py')
        for code in codes
    }


def load(name: str) -> Config:
    """A copy, without weights that would have to be fetched."""
    cfg = copy.deepcopy(_examples()[name])
    cfg.model.pop('pretrained', None)
    cfg.model.backbone.update(init_cfg=None)
    return cfg


def build(cfg: Config, **changes) -> nn.Module:
    model = {**cfg.model, **changes}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(model)


def plain(cfg: Config) -> nn.Module:
    return build(cfg, attention_conv=None)


def names(net: nn.Module) -> list[str]:
    """Of parameters and buffers outside of operators."""
    inside = tuple(f'{name}.' for name in operators_in(net))
    return [key for key in net.state_dict() if not key.startswith(inside)]


def test_examples_are_those_of_the_page():
    assert _examples().keys() == COUNTS.keys()


@pytest.mark.parametrize('name', COUNTS)
def test_swaps_and_keeps_the_rest(name):
    cfg = load(name)
    net, twin = build(cfg), plain(cfg)
    assert type(net) is type(twin)
    assert type(net).__name__ == cfg.model.original.rpartition('.')[2]
    operators = operators_in(net)
    assert len(operators) == COUNTS[name] and not operators_in(twin)
    old = {f'{key}.{leaf}' for key in operators for leaf in ('weight', 'bias')}
    assert names(net) == [k for k in twin.state_dict() if k not in old]
    # A checkpoint of the plain model fills the rest, and only that.
    before = {k: op.weight.clone() for k, op in operators.items()}
    missing, unexpected = net.load_state_dict(twin.state_dict(), strict=False)
    assert set(unexpected) == old & twin.state_dict().keys()
    assert {k.startswith(tuple(operators)) for k in missing} == {True}
    for key, operator in operators.items():
        assert operator.weight.equal(before[key])
    for key in names(net):
        assert net.state_dict()[key].equal(twin.state_dict()[key])


def test_init_weights_leaves_the_operators_their_own_start():
    """The heads of RetinaNet draw their convolutions with 0.01."""
    cfg = load('retinanet')
    cfg.model.update(where='bbox_head.cls_convs.*.conv', start='fresh')
    net = build(cfg)
    net.init_weights()
    for plain in net.bbox_head.reg_convs:
        std = plain.conv.weight.std().item()
        assert std == pytest.approx(0.01, rel=0.05)
    for operator in operators_in(net).values():
        he = (2 / (9 * operator.out_channels)) ** 0.5
        std = operator.weight.std().item()
        assert std == pytest.approx(he, rel=0.05)
        assert operator.attn.weight.abs().max() > 0.9  # published: -1 to 1


def test_a_start_with_the_weights_of_the_plain_model(tmp_path):
    """As drawn by its rule, or from a checkpoint; the attention published."""
    cfg = load('retinanet')
    where = ['bbox_head.cls_convs.*.conv', 'neck.fpn_convs.0.conv']
    cfg.model.update(where=where, start='plain')
    net = build(cfg, attention_conv=dict(type='RFAConv', bias=True))
    net.init_weights()
    operators = operators_in(net)
    for operator in operators.values():
        assert operator.attn.weight.abs().max() > 0.9
    std = operators['bbox_head.cls_convs.0.conv'].weight.std().item()
    assert std == pytest.approx(0.01, rel=0.05)
    twin = plain(cfg)
    nn.init.uniform_(twin.neck.fpn_convs[0].conv.bias)
    torch.save(twin.state_dict(), tmp_path / 'plain.pth')
    file = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'))
    net = build(
        cfg, attention_conv=dict(type='RFAConv', bias=True), init_cfg=file
    )
    net.init_weights()
    for name, operator in operators_in(net).items():
        conv = twin.get_submodule(name)
        assert operator.weight.equal(conv.weight)
        if conv.bias is not None:
            assert operator.bias.equal(conv.bias)
    assert net.backbone.conv1.weight.equal(twin.backbone.conv1.weight)


@pytest.mark.parametrize('name', ['retinanet', 'rtmdet'])
def test_exact_start(name, tmp_path):
    """From the checkpoint of a plain model; behind ReLU and SiLU."""
    cfg = load(name)
    if name == 'retinanet':  # smaller
        cfg.model.backbone.update(depth=18, norm_eval=False)
        cfg.model.neck.update(in_channels=[64, 128, 256, 512])
    twin = plain(cfg)
    twin.init_weights()
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    x = torch.randn(2, 3, 96, 96)
    twin.train().extract_feat(x)  # norms have the statistics of this
    torch.save(twin.state_dict(), tmp_path / 'plain.pth')
    file = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'))
    net = build(cfg, start='exact', init_cfg=file)
    keys = list(net.state_dict())
    copy.deepcopy(net)  # as an average of its weights does
    net.init_weights()
    assert list(net.state_dict()) == keys
    with torch.no_grad():
        levels = zip(*(n.eval().extract_feat(x) for n in (net, twin)))
    for ours, theirs in levels:
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    trained = {k: v.clone() for k, v in net.state_dict().items()}
    net.init_weights()  # a second time: it is initialised
    assert all(v.equal(trained[k]) for k, v in net.state_dict().items())


def test_a_step_of_segmentation():
    from mmseg.structures import SegDataSample

    cfg = load('upernet')
    cfg.model.data_preprocessor.update(size=(64, 64))
    net = revert_sync_batchnorm(build(cfg)).train()
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 21, (1, 64, 64)))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    data = dict(inputs=[image] * 2, data_samples=[sample] * 2)
    data = net.data_preprocessor(data, training=True)
    loss, _ = net.parse_losses(net(**data, mode='loss'))
    loss.backward()
    for operator in operators_in(net).values():
        assert all(p.grad.isfinite().all() for p in operator.parameters())


def test_an_operator_of_ones_own():
    class Mine(RFAConv):
        pass

    MODELS.register_module(module=Mine)
    try:
        net = build(load('rtmdet'), attention_conv=dict(type='Mine'))
        assert {type(m) for m in operators_in(net).values()} == {Mine}
    finally:
        MODELS.module_dict.pop('Mine')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(attention_conv=dict(type='RFConv')),
            "one of RFAConv, RFCBAMConv, .* got {'type': 'RFConv'}",
        ),
        (dict(attention_conv='RFAConv'), "a dict .* got 'RFAConv'"),
        (dict(attention_conv=dict(type='RFAConv', mod='x')), "got 'mod'"),
        (dict(where='backbone.layer9.*'), "got 'backbone.layer9"),
        (dict(where=7, exclude='backbone.*'), 'expected a convolution that'),
        (
            dict(attention_conv=dict(type='RFAConv', start='neutral')),
            "start: expected none, .* got 'neutral'",
        ),
        (dict(start='freshly'), "'plain' or 'exact', got 'freshly'"),
        (dict(start='fresh'), r'layer1\.0\.conv2 is frozen'),
        (dict(start='plain'), r'layer1\.0\.conv2 is frozen'),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(InputError, match=message) as error:
        build(load('retinanet'), **changes)
    assert '\n' not in str(error.value)
