"""The tool that converts ordinary checkpoints, and a segmentor through it."""

from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmrfa.checkpoints.names import operators_in
from mmrfa.checkpoints.reading import load_checkpoint_file
from mmrfa.engine.config import import_scope, load_config
from mmrfa.engine.run import build_model, build_runner
from mmrfa.layers import set_moments
from mmrfa.models import RFAResNet

from .tool_calls import TINY_SEG

REPO = Path(__file__).parents[2]
CONFIG = 'deeplabv3plus/deeplabv3plus_r18-d16_4xb4-20k_voc12aug-512x512.py'


@pytest.fixture
def tool(call):
    return partial(call, 'model_converters/resnet_to_rfa.py')


@pytest.fixture
def plain(tmp_path):
    """A file with torchvision's names, and the network in it."""
    net = RFAResNet(18)
    net.init_weights()
    state = {**net.state_dict(), 'fc.weight': torch.zeros(10, 512)}
    torch.save(state, tmp_path / 'plain.pth')
    return tmp_path / 'plain.pth', net.eval()


def test_result_loads_as_pretrained(tool, plain, tmp_path, capsys):
    source, net = plain
    target = tmp_path / 'rfa.pth'
    options = ('--depth', 18, '--attention-conv', 'RFAConv')
    options += ('--mode', 'unfold', '--stages', 2, 4)
    assert tool(source, target, *options) == 0
    printed = capsys.readouterr().out
    assert 'fc.weight: not in the backbone' in printed
    assert (
        'layer2.0.conv1.weight -> layer2.0.conv1.weight, times 9 in RFAConv'
        in printed
    )
    assert all(f'  {key}' in printed for key in net.state_dict())
    ours = RFAResNet(
        18,
        attention_conv=dict(type='RFAConv', mode='unfold'),
        stage_with_attention_conv=(False, True, False, True),
    )
    state = torch.load(target, weights_only=True)['state_dict']
    ours.load_state_dict(state, strict=True)
    assert all(f'  {key}' in printed for key in state if '.attn.' in key)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(ours.eval()(x), net(x), strict=True):
            assert float((a - b).norm() / b.norm()) < 1e-5
    first = target.read_bytes()
    assert tool(source, target, *options) == 0
    assert load_checkpoint_file(target).keys() == {'meta', 'state_dict'}
    assert len(first) == len(target.read_bytes())


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('--depth', 34, '--attention-conv', 'RFAConv'), 'ResNet-34'),
        (('--depth', 18, '--attention-conv', 'NoConv'), 'NoConv'),
        (
            ('--depth', 18, '--attention-conv', 'CAConv', '--mode', 'group'),
            'mode',
        ),
        (
            (
                *('--depth', 18, '--attention-conv', 'RFAConv'),
                *('--calibrate', 'nowhere.py'),
            ),
            'nowhere.py',
        ),
        (
            (
                *('--depth', 18, '--attention-conv', 'RFAConv', '--calibrate'),
                REPO / 'configs/deeplabv3/'
                'deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512.py',
            ),
            'depth=18',
        ),
    ],
    ids=['depth', 'type', 'mode', 'no-config', 'other-config'],
)
def test_mistakes_write_nothing(options, words, tool, plain, tmp_path, capsys):
    target = tmp_path / 'target.pth'
    target.write_text('kept')
    assert tool(plain[0], target, *options) != 0
    err = capsys.readouterr().err
    assert err.startswith('error: ')
    assert err.count('\n') == 1, err
    assert words in err
    assert target.read_text() == 'kept'
    assert len(list(tmp_path.iterdir())) == 2


def test_source_is_never_overwritten(tool, plain, capsys):
    before = plain[0].read_bytes()
    options = ('--depth', 18, '--attention-conv', 'RFAConv')
    assert tool(plain[0], plain[0], *options) != 0
    plain[0].with_name('cut.pth').write_bytes(before[:9000])
    cut = plain[0].with_name('cut.pth')
    assert tool(cut, plain[0], *options) != 0
    assert 'truncated' in capsys.readouterr().err
    assert plain[0].read_bytes() == before


def test_calibration_checks_its_data(
    tool, plain, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(tmp_path / 'nothing'))
    options = ('--depth', 18, '--attention-conv', 'RFAConv')
    config = REPO / 'configs' / CONFIG.replace('r18', 'r18-rfa')
    target = tmp_path / 'target.pth'
    assert tool(plain[0], target, *options, '--calibrate', config) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: train_dataloader: expected data at ')
    assert str(tmp_path / 'nothing') in err
    assert not target.exists()


def test_segmentor_keeps_its_accuracy(tool, tmp_path):
    """Train the plain twin a little, convert it whole: the same mIoU.

    Calibration, on images of the config, brings the training mode closer.
    """
    conv = 'RFCBAMConv'
    options = {
        'train_cfg': dict(
            type='IterBasedTrainLoop', max_iters=12, val_interval=99
        ),
        'param_scheduler': [],
        'optim_wrapper.optimizer.lr': 0.05,
        'crop_size': (64, 64),
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0,
        'val_dataloader.persistent_workers': False,
        'val_dataloader.dataset.indices': 12,
        'val_dataloader.dataset.pipeline': [
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        'model.data_preprocessor.size': (64, 64),
        # after twelve steps the running statistics are those of batches
        'model.backbone.norm_cfg': dict(type='BN', momentum=0.5),
        'model.decode_head.norm_cfg': dict(type='BN', requires_grad=True),
        'model.auxiliary_head.norm_cfg': dict(type='BN', requires_grad=True),
        'default_hooks.checkpoint.interval': 12,
        'randomness': dict(seed=0),
    }
    path = str(REPO / 'configs' / CONFIG)

    def config(operator):
        cfg = load_config(path, options)
        cfg.train_dataloader.dataset = dict(
            cfg.val_dataloader.dataset,
            ann_file='ImageSets/Segmentation/train.txt',
            indices=40,
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
                dict(type='RandomCrop', crop_size=(64, 64)),
                dict(type='PackSegInputs'),
            ],
        )
        cfg.model.backbone.init_cfg = None
        cfg.work_dir = str(tmp_path / (operator or 'plain'))
        if operator:
            cfg.model.backbone.attention_conv = dict(type=operator)
        import_scope(cfg)
        return cfg

    def miou(cfg, checkpoint):
        cfg.load_from = str(checkpoint)
        cfg.test_dataloader = cfg.val_dataloader
        cfg.test_evaluator = cfg.val_evaluator
        return build_runner(cfg, 'none', train=False).test()['mIoU']

    build_runner(config(None), 'none', train=True).train()
    twin = tmp_path / 'plain/iter_12.pth'
    target = tmp_path / 'started.pth'
    dumped = tmp_path / 'used.py'
    config(conv).dump(dumped)
    assert (
        tool(
            *(twin, target, '--depth', 18, '--attention-conv', conv),
            *('--whole', '--calibrate', dumped, '--batches', 3),
        )
        == 0
    )
    before, after = miou(config(None), twin), miou(config(conv), target)
    assert before > 5
    assert after == pytest.approx(before, abs=1e-2)

    nets = [build_model(config(None)), build_model(config(conv))]
    for net, file in zip(nets, (twin, target), strict=True):
        net.load_state_dict(load_checkpoint_file(file)['state_dict'])
    cfg = config(None)
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=5)
    images = preprocess(next(iter(loader)), training=True)['inputs']

    def gap():
        with torch.no_grad():
            ours, plain = (net.backbone.train()(images)[-1] for net in nets)
        return float((ours - plain).norm() / plain.norm())

    calibrated = gap()
    for operator in operators_in(nets[1]).values():
        set_moments(operator.norm, 0, 1)
    assert calibrated < gap()


def test_calibration_tells_how_much_there_was(
    tool, plain, tmp_path, sample_root, capsys, monkeypatch
):
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(sample_root))
    words = plain[0], tmp_path / 'rfa.pth', '--depth', 18
    words += '--attention-conv', 'RFAConv', '--calibrate', TINY_SEG
    words += '--cfg-options', 'train_dataloader.sampler.type=DefaultSampler'
    words += ('train_dataloader.dataset.indices=7',)
    assert tool(*words, 'train_dataloader.batch_size=4') == 0
    assert 'calibrated on 2 batches' in capsys.readouterr().out
    (tmp_path / 'rfa.pth').unlink()
    none = 'train_dataloader.batch_size=99', 'train_dataloader.drop_last=True'
    assert tool(*words, *none) == 2
    assert 'expected a batch to calibrate on' in capsys.readouterr().err
    assert not (tmp_path / 'rfa.pth').exists()
