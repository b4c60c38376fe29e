"""YOLOX: the six places, the plain twin, every config, a short training."""

import copy
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import mean

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn

import mmrfa.models  # noqa: F401
from mmrfa.checkpoints.names import operators_in
from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS

REPO = Path(__file__).resolve().parents[2]
ZOO = REPO / 'configs' / 'yolox'
CONVS = {'': None, '-rfa': 'RFAConv', '-rfca': 'RFCAConv'}
CLASSES = {'coco': 80, 'voc0712': 20, 'bccd': 3}
EXPECTED = {
    *(
        f'yolox_{size}{conv}_8xb8-300e_{data}'
        for size in ('nano', 'tiny', 's')
        for conv in CONVS
        for data in ('coco', 'voc0712')
    ),
    *(f'yolox_tiny{conv}_1xb8-100e_bccd' for conv in CONVS),
}
NAMES = sorted(path.stem for path in ZOO.glob('*.py'))
RFA = dict(type='RFAConv')


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Two threads on two busy cores wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def need_compiled_operators() -> None:
    if importlib.util.find_spec('mmcv._ext') is None:
        reason = 'YOLOX needs the compiled mmcv operators'
        if os.environ.get('MMRFA_REQUIRE_KERNELS') == '1':
            pytest.fail(reason)
        pytest.skip(reason)


@cache
def _load(name: str) -> Config:
    need_compiled_operators()
    return Config.fromfile(ZOO / f'{name}.py')


def load(name: str) -> Config:
    """A copy, which a test may change."""
    return copy.deepcopy(_load(name))


def build(cfg: dict) -> nn.Module:
    need_compiled_operators()
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def places(inner: str = '') -> list[str]:
    """The downsampling convolutions, P2 to P5 and back up to P5."""
    stages = [f'backbone.stage{i}.0.{inner}conv' for i in (1, 2, 3, 4)]
    return [*stages, *(f'neck.downsamples.{i}.{inner}conv' for i in (0, 1))]


def batch(size: int = 64) -> dict:
    """Two random images with a box each."""
    from mmdet.structures import DetDataSample

    samples = []
    for label in (0, 1):
        sample = DetDataSample(
            metainfo=dict(
                img_shape=(size, size),
                ori_shape=(size, size),
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]]),
            labels=torch.tensor([label]),
        )
        samples.append(sample)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=samples)


def test_zoo_is_complete():
    assert set(NAMES) == EXPECTED
    assert len(NAMES) == 21


@pytest.mark.parametrize('name', NAMES)
def test_config(name):
    """It builds, has the operator in six places only, learns, predicts."""
    cfg = load(name)
    _, network, schedule, data = name.split('_')
    size, _, conv = network.partition('-')
    gpus, per_gpu, epochs = map(int, re.findall(r'\d+', schedule))
    assert cfg.model.bbox_head.num_classes == CLASSES[data]
    assert cfg.train_dataloader.batch_size == per_gpu
    assert cfg.auto_scale_lr.base_batch_size == gpus * per_gpu
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.param_scheduler[-1].end == epochs
    switch = cfg.custom_hooks[0]
    assert switch.type == 'YOLOXModeSwitchHook'
    assert switch.num_last_epochs == 15
    assert cfg.param_scheduler[-1].begin == epochs - 15
    # The names that the inference tools look for.
    assert cfg.train_pipeline == cfg.train_dataloader.dataset.pipeline
    assert cfg.test_pipeline == cfg.test_dataloader.dataset.pipeline
    assert ('MixUp' in str(cfg.train_pipeline)) == (size == 's')

    net = build(cfg.model)
    operators = operators_in(net)
    if not conv:
        assert not operators
    else:
        inner = 'depthwise_conv.' if size == 'nano' else ''
        assert list(operators) == places(inner)
        twin = load(name.replace(f'-{conv}', ''))
        plain = build(twin.model)
        for key, operator in operators.items():
            replaced = plain.get_submodule(key)
            assert type(operator).__name__ == CONVS[f'-{conv}']
            assert type(replaced) is nn.Conv2d
            assert replaced.kernel_size == (3, 3)
            for part in (
                'in_channels out_channels kernel_size stride padding groups'
            ).split():
                assert getattr(operator, part) == getattr(replaced, part)
            assert operator.stride == (2, 2)
            assert operator.bias is not None
            layer = net.get_submodule(key.rpartition('.')[0])
            assert type(layer.norm) is nn.BatchNorm2d
            assert layer.with_activation
            assert operator.norm.eps == layer.norm.eps == 0.001
        inside = tuple(f'{key}.' for key in operators)
        rest = [k for k in net.state_dict() if not k.startswith(inside)]
        old = {f'{key}.weight' for key in operators}
        assert rest == [k for k in plain.state_dict() if k not in old]
        for part in ('backbone', 'neck'):
            assert cfg.model[part].pop('attention_conv') == dict(
                type=CONVS[f'-{conv}']
            )
        assert cfg.to_dict() == twin.to_dict()

    net.init_weights()
    net.train()
    losses = net(**net.data_preprocessor(batch()), mode='loss')
    loss, _ = net.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss), losses
    assert not [k for k, p in net.named_parameters() if p.grad is None]
    net.eval()
    for sample in net.test_step(batch()):
        assert torch.isfinite(sample.pred_instances.bboxes).all()


@pytest.mark.parametrize('size', ['nano', 's'])
def test_plain_is_the_stock_detector(size):
    """Same keys, same initialisation, same output as mmdet's classes."""
    cfg = load(f'yolox_{size}_8xb8-300e_coco').model
    stock = copy.deepcopy(cfg)
    stock.backbone.type = 'CSPDarknet'
    stock.neck.type = 'YOLOXPAFPN'
    nets = []
    for one in (cfg, stock):
        torch.manual_seed(1)
        net = build(one)
        net.init_weights()
        nets.append(net.eval())
    own, other = (net.state_dict() for net in nets)
    assert list(own) == list(other)
    assert all(torch.equal(own[key], other[key]) for key in own)
    x = torch.randn(1, 3, 64, 64)
    ours, theirs = (sum(net(x, mode='tensor'), []) for net in nets)
    assert len(ours) == 9
    assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize('depthwise', [False, True])
@pytest.mark.parametrize('operator', [op.__name__ for op in OPERATORS])
def test_every_operator(operator, depthwise):
    conv = dict(type=operator)
    backbone = dict(
        type='RFACSPDarknet',
        widen_factor=0.25,
        deepen_factor=0.33,
        use_depthwise=depthwise,
    )
    neck = dict(
        type='RFAYOLOXPAFPN',
        in_channels=[64, 128, 256],
        out_channels=64,
        num_csp_blocks=1,
        use_depthwise=depthwise,
    )
    parts = [dict(part, attention_conv=conv) for part in (backbone, neck)]
    nets = [build(part).eval() for part in parts]
    assert conv == dict(type=operator)
    shapes = [y.shape for y in nets[1](nets[0](torch.randn(1, 3, 64, 64)))]
    assert shapes == [(1, 64, side, side) for side in (8, 4, 2)]
    found = [list(operators_in(net).values()) for net in nets]
    assert [len(part) for part in found] == [4, 2]
    for module in sum(found, []):
        assert type(module).__name__ == operator
        assert module.groups == (module.in_channels if depthwise else 1)


def test_the_operator_is_used():
    """What the layer computes is activation(norm(operator(x)))."""
    net = build(dict(type='RFACSPDarknet', widen_factor=0.25)).eval()
    layer = net.stage2[0]
    x = torch.randn(1, 32, 8, 8)
    plain = layer(x)
    net = build(
        dict(type='RFACSPDarknet', widen_factor=0.25, attention_conv=RFA)
    ).eval()
    layer = net.stage2[0]
    expected = layer.activate(layer.bn(layer.conv(x)))
    assert torch.equal(layer(x), expected)
    assert not torch.allclose(expected, plain)


def test_names_in_checkpoints():
    """A change here would make trained checkpoints useless."""
    dense, separable = (
        build(load(f'yolox_{size}-rfa_8xb8-300e_coco').model).state_dict()
        for size in ('tiny', 'nano')
    )
    norm = [
        'weight',
        'bias',
        'running_mean',
        'running_var',
        'num_batches_tracked',
    ]
    operator = [
        'weight',
        'bias',
        'attn.weight',
        'feature.weight',
        *(f'norm.{key}' for key in norm),
    ]
    layer = [f'conv.{key}' for key in operator] + [f'bn.{k}' for k in norm]
    for prefix in ('backbone.stage1.0.', 'neck.downsamples.1.'):
        found = [k for k in dense if k.startswith(prefix)]
        assert found == [prefix + key for key in layer]
        found = [k for k in separable if k.startswith(f'{prefix}depth')]
        assert found == [f'{prefix}depthwise_conv.{key}' for key in layer]
        assert f'{prefix}pointwise_conv.conv.weight' in separable
    shapes = {
        key: tuple(dense[f'backbone.stage1.0.conv.{key}'].shape)
        for key in operator[:4]
    }
    assert shapes == {
        'weight': (48, 24, 3, 3),
        'bias': (48,),
        'attn.weight': (216, 1, 1, 1),
        'feature.weight': (216, 1, 3, 3),
    }
    key = 'backbone.stage1.0.depthwise_conv.conv.weight'
    assert separable[key].shape == (16, 1, 3, 3)


def test_stages_can_be_chosen():
    net = build(
        dict(
            type='RFACSPDarknet',
            widen_factor=0.25,
            attention_conv=RFA,
            stage_with_attention_conv=(False, True, False, True),
        )
    )
    assert list(operators_in(net)) == ['stage2.0.conv', 'stage4.0.conv']
    net = build(
        dict(
            type='RFACSPDarknet',
            arch='P6',
            widen_factor=0.25,
            out_indices=(3, 4, 5),
            attention_conv=RFA,
        )
    )
    assert len(operators_in(net)) == 5


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (
            dict(type='RFACSPDarknet', attention_conv=dict(type='RFConv')),
            "one of RFAConv, RFCBAMConv, .* got {'type': 'RFConv'}",
        ),
        (
            dict(
                type='RFAYOLOXPAFPN',
                in_channels=[8, 8],
                out_channels=8,
                attention_conv='RFAConv',
            ),
            "a dict .* got 'RFAConv'",
        ),
        (
            dict(type='RFACSPDarknet', stage_with_attention_conv=(True,)),
            r'4 entries, one per stage, got \(True,\)',
        ),
        (
            dict(type='RFACSPDarknet', stage_with_attention_conv=()),
            r'4 entries, one per stage, got \(\)',
        ),
    ],
)
def test_bad_arguments(cfg, message):
    with pytest.raises(InputError, match=message) as error:
        build(cfg)
    assert '\n' not in str(error.value)


def write_voc(root: Path) -> None:
    """Boxes in VOC's layout: two images a year, the last box difficult."""
    for year, split in (
        ('VOC2007', 'trainval'),
        ('VOC2012', 'trainval'),
        ('VOC2007', 'test'),
    ):
        folder = root / 'VOCdevkit' / year
        for part in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
            (folder / part).mkdir(parents=True, exist_ok=True)
        names = [f'{split}{i}' for i in range(2)]
        lines = '\n'.join(names) + '\n'
        (folder / f'ImageSets/Main/{split}.txt').write_text(lines)
        for name in names:
            image = np.random.randint(0, 256, (96, 128, 3), dtype=np.uint8)
            mmcv.imwrite(image, str(folder / f'JPEGImages/{name}.jpg'))
            boxes = ''.join(
                f'<object><name>{kind}</name><difficult>{difficult}'
                f'</difficult><bndbox><xmin>{x}</xmin><ymin>9</ymin>'
                f'<xmax>{x + 40}</xmax><ymax>60</ymax></bndbox></object>'
                for kind, x, difficult in (('cat', 5, 0), ('dog', 60, 1))
            )
            (folder / f'Annotations/{name}.xml').write_text(
                '<annotation><size><width>128</width><height>96</height>'
                f'</size>{boxes}</annotation>'
            )


@pytest.mark.parametrize('size', ['tiny', 's'])
def test_voc_data(size, monkeypatch, tmp_path):
    """Both years are mixed; ground truth scores 1 at every threshold."""
    write_voc(tmp_path)
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(tmp_path))
    need_compiled_operators()
    cfg = Config.fromfile(ZOO / f'yolox_{size}_8xb8-300e_voc0712.py')
    import mmdet.datasets
    import mmdet.evaluation  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmdet'):
        train = DATASETS.build(cfg.train_dataloader.dataset)
        test = DATASETS.build(cfg.test_dataloader.dataset)
        metric = METRICS.build(cfg.test_evaluator)
    paths = {
        info['img_path']
        for info in map(train.dataset.get_data_info, range(len(train)))
    }
    assert len(train) == len(paths) == 4
    assert {Path(path).parts[-3] for path in paths} == {'VOC2007', 'VOC2012'}
    for i in range(4):
        sample = train[i]
        assert sample['inputs'].shape == (3, 640, 640)
        assert len(sample['data_samples'].gt_instances)
    side = 640 if size == 's' else 416
    metric.dataset_meta = test.metainfo
    for sample in (test[0], test[1]):
        assert sample['inputs'].shape == (3, side, side)
        truth = sample['data_samples']
        assert len(truth.gt_instances) == 1  # the other one is difficult
        found = truth.gt_instances.clone()
        found.bboxes = found.bboxes.tensor
        found.scores = torch.ones(1)
        truth.gt_instances = found
        truth.ignored_instances.bboxes = truth.ignored_instances.bboxes.tensor
        truth.pred_instances = found
        metric.process({}, [truth.to_dict()])
    scores = metric.evaluate(2)
    assert scores['pascal_voc/AP50'] == scores['pascal_voc/AP95'] == 1
    assert scores['pascal_voc/mAP'] == pytest.approx(1)


def python(*command: object) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(REPO), os.environ.get('PYTHONPATH', '')])
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=os.environ
        | {'PYTHONPATH': path.rstrip(os.pathsep), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def shrink(cfg: Config) -> Config:
    """Small images, few of them, one process; the config otherwise."""
    side = 160
    for step in cfg.train_dataloader.dataset.pipeline:
        if 'img_scale' in step:
            step.img_scale = (side, side)
        if 'border' in step:
            step.border = (-side // 2, -side // 2)
        if 'scale' in step:
            step.scale = (side, side)
    resize = cfg.model.data_preprocessor.batch_augments[0]
    resize.update(random_size_range=(128, side), interval=2)
    cfg.train_dataloader.batch_size = 4
    cfg.train_dataloader.dataset.dataset.indices = 20
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        if name != 'train':
            loader.dataset.indices = 8
            loader.dataset.pipeline[1].scale = (side, side)
    cfg.train_cfg.update(max_epochs=4, val_interval=4)
    cfg.param_scheduler = [
        dict(cfg.param_scheduler[0], end=1),
    ]
    cfg.custom_hooks[0].num_last_epochs = 1
    cfg.default_hooks.logger.interval = 1
    cfg.log_processor.window_size = 1  # no running means
    cfg.model.test_cfg.score_thr = 0.0  # so early, all scores are low
    cfg.randomness = dict(seed=0)
    return cfg


def test_trains_on_bccd(data_root, monkeypatch, tmp_path):
    """As a user trains and tests it: finite, falling, switched, scored."""
    need_compiled_operators()
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(data_root('bccd').parent))
    config = tmp_path / 'short.py'
    leaf = ZOO / 'yolox_tiny-rfa_1xb8-100e_bccd.py'
    shrink(Config.fromfile(leaf)).dump(config)
    run = tmp_path / 'run'
    done = python(REPO / 'tools' / 'train.py', config, '--work-dir', run)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'No mosaic and mixup aug now!' in done.stderr + done.stdout
    (log,) = run.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    (score,) = [r['coco/bbox_mAP'] for r in rows if 'coco/bbox_mAP' in r]
    rows = [row for row in rows if 'loss' in row]
    assert len(rows) == 20
    assert all(math.isfinite(row['loss']) for row in rows)
    assert all('loss_l1' in row for row in rows[-5:])
    assert not any('loss_l1' in row for row in rows[:-10])
    for part in ('loss_obj', 'loss_bbox'):
        values = [row[part] for row in rows]
        assert mean(values[-5:]) < mean(values[:5])

    checkpoint = run / 'epoch_4.pth'
    tested = python(
        REPO / 'tools' / 'test.py',
        config,
        checkpoint,
        '--work-dir',
        tmp_path / 'test',
    )
    assert tested.returncode == 0, tested.stderr[-2000:]
    (log,) = (tmp_path / 'test').glob('*/*.json')
    result = json.loads(log.read_text().splitlines()[-1])
    assert 0 <= result['coco/bbox_mAP'] <= 1
    assert 0 <= score <= 1
