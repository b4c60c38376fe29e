"""Every config loads, agrees with its name and its plain twin, and runs."""

import copy
import importlib.util
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

from mmrfa.results.zoo import TAGS

CONFIGS = Path(__file__).parents[1] / 'configs'
# Those behind the first two have tests of their own.
OTHERS = {'_base_', 'demo', 'imagenet', 'yolov5', 'yolov7', 'yolov8'}
FILES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if not {*path.relative_to(CONFIGS).parts} & OTHERS
)
ZOO = [name for name in FILES if '/' in name]
VARIANTS = [name for name in ZOO if re.search(r'_r\d+-(?!d\d)', name)]

OPERATORS = {tag: operator for operator, tag in TAGS.items()}
NAME = re.compile(
    r'(?P<algorithm>[a-z0-9-]+)_r(?P<depth>\d+)(-(?P<operator>[a-z]+))?'
    r'(-d(?P<stride>\d+))?(_(?P<neck>fpn))?'
    r'_(?P<schedule>\d+x|\d+xb\d+-\d+[ke])'
    r'_(?P<dataset>[a-z0-9]+)(-(?P<crop>\d+x\d+))?'
)
CLASSES = {
    'voc12aug': 21,
    'camvid': 11,
    'camvidhalf': 11,
    'coco': 80,
    'voc0712': 20,
    'bccd': 3,
}


@cache
def _load(name: str) -> Config:
    return Config.fromfile(CONFIGS / name)


def load(name: str) -> Config:
    """A copy, which a test may change."""
    return copy.deepcopy(_load(name))


def parts(name: str) -> dict:
    match = NAME.fullmatch(Path(name).stem)
    assert match, f'{name} does not follow the naming rule'
    return match.groupdict()


def is_detector(cfg: Config) -> bool:
    return cfg.default_scope == 'mmdet'


def need_compiled_operators() -> None:
    if importlib.util.find_spec('mmcv._ext') is None:
        reason = 'detection needs the compiled mmcv operators'
        if os.environ.get('MMRFA_REQUIRE_KERNELS') == '1':
            pytest.fail(reason)
        pytest.skip(reason)


def build(cfg: Config) -> torch.nn.Module:
    """The model, without pretrained weights."""
    cfg.model.backbone.pop('init_cfg', None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return revert_sync_batchnorm(MODELS.build(cfg.model))


def batch(cfg: Config, size: int = 64) -> dict:
    """Two random images with a mask or a box."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 3, size, size), dtype=np.uint8)
    meta = dict(
        img_shape=(size, size),
        ori_shape=(size, size),
        pad_shape=(size, size),
        scale_factor=(1.0, 1.0),
        batch_input_shape=(size, size),
    )
    samples = []
    for _ in image:
        if is_detector(cfg):
            from mmdet.structures import DetDataSample

            sample = DetDataSample(metainfo=meta)
            sample.gt_instances = InstanceData(
                bboxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]]),
                labels=torch.tensor([1]),
            )
        else:
            from mmseg.structures import SegDataSample

            sample = SegDataSample(metainfo=meta)
            classes = cfg.model.decode_head.num_classes
            labels = rng.integers(0, classes, (1, size, size))
            sample.gt_sem_seg = PixelData(data=torch.tensor(labels))
        samples.append(sample)
    return dict(inputs=list(torch.from_numpy(image)), data_samples=samples)


def run(cfg: Config) -> None:
    """One step of training and one prediction on a small batch.

    Of ResNet-101 the loss alone.
    """
    if is_detector(cfg):
        need_compiled_operators()
        # Fewer boxes, which take most of the time, and are not ours.
        cfg.model.train_cfg.rpn_proposal.max_per_img = 32
        cfg.model.train_cfg.rcnn.sampler.num = 16
        cfg.model.test_cfg.rpn.max_per_img = 16
    else:
        cfg.model.data_preprocessor.size = (64, 64)
    torch.manual_seed(0)
    model = build(cfg).train()
    data = model.data_preprocessor(batch(cfg), training=True)
    deep = cfg.model.backbone.depth > 50
    with torch.set_grad_enabled(not deep):
        losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    assert torch.isfinite(loss), losses
    if deep:  # more of the same blocks as ResNet-50: the time is better spent
        return
    loss.backward()
    untrained = {
        name
        for name, parameter in model.backbone.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    }
    assert not untrained
    model.eval()
    with torch.no_grad():
        predictions = model.test_step(batch(cfg))
    assert len(predictions) == 2
    for prediction in predictions:
        if is_detector(cfg):
            boxes = prediction.pred_instances.bboxes
            assert boxes.shape[1] == 4 and torch.isfinite(boxes).all()
        else:
            assert prediction.pred_sem_seg.data.shape == (1, 64, 64)
            scores = prediction.seg_logits.data
            assert scores.shape[0] == cfg.model.decode_head.num_classes
            assert torch.isfinite(scores).all()


def expected_zoo() -> set[str]:
    """The list that the zoo promises."""
    names = set()
    ops = ['', *(f'-{name}' for name in OPERATORS)]
    voc = '4xb4-20k_voc12aug-512x512'
    for op in ops:
        for stride in ('d8', 'd16'):
            names.add(f'deeplabv3plus/deeplabv3plus_r18{op}-{stride}_{voc}')
        names.add(
            f'deeplabv3plus/deeplabv3plus_r18{op}-d16_1xb8-4k_camvid-256x256'
        )
        for length in ('1k', '2k'):
            names.add(
                f'deeplabv3plus/deeplabv3plus_r18{op}-d16_1xb8-{length}_'
                'camvidhalf-128x128'
            )
        names.add(f'faster_rcnn/faster-rcnn_r18{op}_fpn_1xb4-36e_bccd')
    for depth in (50, 101):
        for op in ('', '-rfa'):
            for algorithm in ('deeplabv3plus', 'deeplabv3', 'fcn'):
                names.add(f'{algorithm}/{algorithm}_r{depth}{op}-d8_{voc}')
    for depth in (18, 50, 101):
        for op in ('', '-rfa', '-rfca', '-aw'):
            names.add(f'faster_rcnn/faster-rcnn_r{depth}{op}_fpn_1x_coco')
    for op in ('', '-rfa'):
        names.add(f'faster_rcnn/faster-rcnn_r50{op}_fpn_1x_voc0712')
    return {f'{name}.py' for name in names}


def test_zoo_is_complete():
    assert set(ZOO) == expected_zoo()
    assert len(ZOO) == 74
    assert len(VARIANTS) == 58
    assert set(FILES) - set(ZOO) == {
        'deeplabv3_rfa_r50_voc.py',
        'deeplabv3plus_rfa_r50_voc.py',
        'fcn_rfa_r50_voc.py',
        'faster_rcnn_rfa_r50_coco.py',
    }


@pytest.mark.parametrize('name', ZOO)
def test_name_tells_the_content(name):
    part, cfg = parts(name), load(name)
    backbone = cfg.model.backbone
    assert backbone.depth == int(part['depth'])
    operator = backbone.get('attention_conv', {}).get('type')
    assert operator == OPERATORS.get(part['operator'])

    stride = np.prod(backbone.get('strides', (1, 2, 2, 2))) * 4
    assert stride == int(part['stride'] or 32)
    if part['crop']:
        crop = tuple(int(side) for side in part['crop'].split('x'))
        assert cfg.crop_size == crop
        assert cfg.model.data_preprocessor.size == crop

    gpus, per_gpu, length = (8, 2, None)  # OpenMMLab's meaning of 1x
    if part['schedule'] != '1x':
        gpus, per_gpu, length = re.findall(r'\d+', part['schedule'])
    assert cfg.train_dataloader.batch_size == int(per_gpu)
    assert cfg.auto_scale_lr.base_batch_size == int(gpus) * int(per_gpu)
    if part['schedule'].endswith('k'):
        assert cfg.train_cfg.max_iters == int(length) * 1000
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
    else:
        times = cfg.train_dataloader.dataset.get('times', 1)
        assert cfg.train_cfg.max_epochs * times == int(length or 12)
        assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs


@pytest.mark.parametrize('name', ZOO)
def test_classes_agree(name):
    cfg = load(name)
    classes = CLASSES[parts(name)['dataset']]
    if is_detector(cfg):
        assert cfg.model.roi_head.bbox_head.num_classes == classes
    else:
        assert cfg.model.decode_head.num_classes == classes
        assert cfg.model.auxiliary_head.num_classes == classes
        pipelines = [
            cfg.train_pipeline,
            cfg.test_pipeline,
            sum(cfg.tta_pipeline[1].transforms, []),
        ]
        for pipeline in pipelines:
            (check,) = [t for t in pipeline if t.type == 'CheckMask']
            assert check.num_classes == classes
    for loader in (
        cfg.train_dataloader,
        cfg.val_dataloader,
        cfg.test_dataloader,
    ):
        for dataset in bottom(loader.dataset):
            if is_detector(cfg):
                need_compiled_operators()
            scope = cfg.default_scope
            with DATASETS.switch_scope_and_registry(scope) as registry:
                metainfo = registry.get(dataset.type).METAINFO
            metainfo = dataset.get('metainfo', metainfo)
            assert len(metainfo['classes']) == classes
            assert len(metainfo['palette']) == classes


def bottom(dataset: dict) -> list[dict]:
    """The data sets inside wrappers."""
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    if inner == [None]:
        return [dataset]
    return [leaf for child in inner for leaf in bottom(child)]


@pytest.mark.parametrize('name', VARIANTS)
def test_variant_is_its_twin_with_an_operator(name):
    variant = load(name)
    twin = load(re.sub(r'(_r\d+)-[a-z]+(?=[-_])', r'\1', name))
    assert 'attention_conv' not in twin.model.backbone
    assert 'attention_conv' in variant.model.backbone
    del variant.model.backbone['attention_conv']
    stages = variant.model.backbone.pop('stage_with_attention_conv', None)
    assert variant.to_dict() == twin.to_dict()
    # A frozen stage would keep an operator at its random start.
    frozen = twin.model.backbone.get('frozen_stages', -1)
    assert stages == ((False, True, True, True) if frozen == 1 else None)


def steps(path: Path) -> int:
    bases = Config._get_base_files(str(path))
    return max((1 + steps(path.parent / base) for base in bases), default=0)


@pytest.mark.parametrize('name', FILES)
def test_inheritance_is_short(name):
    path = CONFIGS / name
    assert steps(path) <= 3
    assert len(path.read_text().splitlines()) <= 15


@pytest.mark.parametrize('conv', ['rfa', 'rfca', 'aw'])
def test_detector_starts_as_its_plain_twin(conv, tmp_path):
    """In training mode: its norms are frozen, and the checkpoint is plain."""
    plain, ours = (
        load(f'faster_rcnn/faster-rcnn_r50{which}_fpn_1x_coco.py')
        for which in ('', f'-{conv}')
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        twin = MODELS.build({**plain.model.backbone, 'init_cfg': None})
        for module in twin.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        torch.save(twin.state_dict(), tmp_path / 'plain.pth')
        ours.merge_from_dict(
            {'model.backbone.init_cfg.checkpoint': f'{tmp_path}/plain.pth'}
        )
        net = MODELS.build(ours.model.backbone)
    net.init_weights()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(net.train()(x), twin.train()(x), strict=True)
    for found, expected in pairs:
        assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize('name', ZOO)
def test_starts_from_weights_that_can_be_turned_off(name):
    cfg = load(name)
    backbone = cfg.model.backbone
    if backbone.depth == 18:
        assert 'init_cfg' not in backbone
        assert backbone.type == 'RFAResNet'
        local = {'model.backbone.init_cfg.type': 'Pretrained'}
    else:
        expected = f'open-mmlab://resnet{backbone.depth}_v1c'
        assert backbone.init_cfg.checkpoint == expected
        assert backbone.type == 'RFAResNetV1c'
        local = {}
        # Frozen norms of the operators need statistics.
        kind = 'PretrainedResNet' if backbone.norm_eval else 'Pretrained'
        assert backbone.init_cfg.type == kind
    local['model.backbone.init_cfg.checkpoint'] = 'a.pth'
    cfg.merge_from_dict(local)
    assert cfg.model.backbone.init_cfg.checkpoint == 'a.pth'
    cfg.merge_from_dict({'model.backbone.init_cfg': None})
    assert cfg.model.backbone.init_cfg is None


@pytest.mark.parametrize('name', FILES)
def test_has_what_the_tools_need(name):
    cfg = load(name)
    assert cfg.custom_imports.imports == ['mmrfa.models']
    assert not cfg.custom_imports.allow_failed_imports
    for key in ('val_evaluator', 'test_evaluator', 'visualizer', 'tta_model'):
        assert cfg[key].type
    assert cfg.default_hooks.checkpoint.save_best
    assert cfg.tta_pipeline[1].type == 'TestTimeAug'
    # The inference tools of mmseg and mmdet look for these two names.
    types = [t.type for t in cfg.test_dataloader.dataset.pipeline]
    assert types[0] == 'LoadImageFromFile' and 'LoadAnnotations' in types
    assert cfg.test_pipeline == cfg.test_dataloader.dataset.pipeline


def test_data_root_from_the_environment(monkeypatch):
    monkeypatch.delenv('MMRFA_DATA_ROOT', raising=False)
    roots = {
        'voc12aug': 'data/VOCdevkit/VOC2012',
        'voc0712': 'data/VOCdevkit',
        'camvidhalf': 'data/camvid',
    }
    for name in ZOO:
        dataset = parts(name)['dataset']
        root = Config.fromfile(CONFIGS / name).data_root.rstrip('/')
        assert root == roots.get(dataset, f'data/{dataset}')
    monkeypatch.setenv('MMRFA_DATA_ROOT', '/some/where')
    cfg = Config.fromfile(CONFIGS / 'deeplabv3_rfa_r50_voc.py')
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        for dataset in bottom(loader.dataset):
            assert dataset.data_root == '/some/where/VOCdevkit/VOC2012'


@pytest.mark.parametrize('name', ZOO)
def test_builds_and_runs(name):
    run(load(name))


@pytest.mark.parametrize(
    'entry,leaf',
    [
        ('deeplabv3_rfa_r50_voc', 'deeplabv3/deeplabv3_r50-rfa-d8_'),
        ('deeplabv3plus_rfa_r50_voc', 'deeplabv3plus/deeplabv3plus_r50-rfa-'),
        ('fcn_rfa_r50_voc', 'fcn/fcn_r50-rfa-d8_'),
        ('faster_rcnn_rfa_r50_coco', 'faster_rcnn/faster-rcnn_r50-rfa_fpn_1x'),
    ],
)
def test_entry_point_is_a_zoo_config(entry, leaf):
    target = [n for n in ZOO if n.startswith(leaf) and 'voc0712' not in n]
    assert len(target) == 1
    assert load(f'{entry}.py').to_dict() == load(target[0]).to_dict()


def test_an_experiment_of_a_few_lines(tmp_path):
    experiment = tmp_path / 'mine.py'
    experiment.write_text(
        f"_base_ = '{CONFIGS}/deeplabv3plus_rfa_r50_voc.py'\n"
        'model = dict(\n'
        "    backbone=dict(attention_conv=dict(type='RFCAConv'),\n"
        '                  stage_with_attention_conv=(0, 0, 1, 1)),\n'
        '    decode_head=dict(num_classes=4),\n'
        '    auxiliary_head=dict(num_classes=4))\n'
    )
    cfg = Config.fromfile(experiment)
    model = build(copy.deepcopy(cfg))
    kinds = [type(stage[0].conv2).__name__ for stage in stages(model)]
    assert kinds == ['Conv2d', 'Conv2d', 'RFCAConv', 'RFCAConv']
    run(cfg)


def stages(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [getattr(model.backbone, f'layer{i}') for i in (1, 2, 3, 4)]
