"""ImageNet and clothing10 configs: the published recipe, rows and counts.

What builds a model needs mmpretrain, so it runs under
``make test-classification``; the rest runs everywhere.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmrfa.results.published import paper_table
from mmrfa.results.zoo import TAGS, variant

FOLDER = Path(__file__).parents[2] / 'configs/imagenet'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py'))
OPERATORS = {tag: operator for operator, tag in TAGS.items()}
IN1K, CLOTHING = '4xb32-100e_in1k', '1xb32-20e_clothing10-64x64'
TABLE = paper_table('imagenet')
PUBLISHED = {
    variant(TABLE.configs[row['model']], row['conv']): row
    for row in TABLE.rows
}
OURS = {f'resnet{x}_{IN1K}' for x in ('18-aw', '50', '50-rfa', '101')} | {
    f'resnet101-{x}_{IN1K}' for x in ('rfa', 'aw')
}

needs_mmpretrain = pytest.mark.skipif(
    find_spec('mmpretrain') is None,
    reason='needs mmpretrain; `make test-classification` has it',
)


def load(name: str) -> Config:
    return Config.fromfile(FOLDER / f'{name}.py')


def test_every_published_row_has_a_config():
    ops = ['', *(f'-{op}' for op in OPERATORS)]
    stand_ins = {f'resnet18{op}_{CLOTHING}' for op in ops}
    assert len(PUBLISHED) == 12
    assert set(NAMES) == {*PUBLISHED, *OURS, *stand_ins}


@pytest.mark.parametrize('name', NAMES)
def test_name_tells_the_content(name):
    cfg = load(name)
    depth, op = re.match(r'resnet(\d+)(?:-([a-z]+))?_', name).groups()
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.depth) == ('RFAResNet', int(depth))
    conv = backbone.get('attention_conv', {}).get('type')
    assert conv == OPERATORS.get(op)
    if op is not None:  # else as its plain twin
        twin = load(name.replace(f'-{op}_', '_'))
        del backbone['attention_conv']
        assert cfg.to_dict() == twin.to_dict()


@pytest.mark.parametrize('name', [n for n in NAMES if n.endswith('in1k')])
def test_recipe_is_the_published_one(name):
    cfg = load(name)
    assert cfg.optim_wrapper.optimizer == dict(
        type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4
    )
    (scheduler,) = cfg.param_scheduler
    assert scheduler.type == 'MultiStepLR' and scheduler.by_epoch
    assert (scheduler.milestones, scheduler.gamma) == ([30, 60, 90], 0.1)
    assert cfg.train_cfg.max_epochs == 100
    assert 4 * cfg.train_dataloader.batch_size == 128
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=128)
    assert cfg.train_pipeline[1] == dict(type='RandomResizedCrop', scale=224)
    assert cfg.test_pipeline[2] == dict(type='CenterCrop', crop_size=224)
    for loader, split in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = cfg[f'{loader}_dataloader'].dataset
        assert dataset.type == 'ImageNet'
        assert dataset.data_root.endswith('/imagenet')
        assert dataset.data_prefix == dict(img_path=split)


@pytest.mark.parametrize('name', [n for n in NAMES if CLOTHING in n])
def test_recipe_of_the_stand_in_is_as_named(name):
    cfg = load(name)
    rule = r'.*_1xb(\d+)-(\d+)e_clothing10-(\d+)x\3'
    batch, epochs, side = map(int, re.fullmatch(rule, name).groups())
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=batch)
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == epochs
    assert cfg.train_pipeline[1].scale == side
    tta = sum(cfg.tta_pipeline[1].transforms, [])
    for edge, crop in (cfg.test_pipeline[1:3], tta[:2]):
        assert (edge.type, edge.scale) == ('ResizeEdge', side)
        assert (crop.type, crop.crop_size) == ('CenterCrop', side)


@needs_mmpretrain
@pytest.mark.parametrize('name', NAMES)
def test_builds_counts_and_learns(name):
    cfg = load(name)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    classes = 10 if name.endswith(CLOTHING) else 1000
    if name in PUBLISHED:
        params = sum(p.numel() for p in model.parameters())
        assert round(params / 1e6, 3) == PUBLISHED[name]['params']
    from mmpretrain.structures import DataSample

    def batch() -> dict:
        labels = [DataSample().set_gt_label(k) for k in (1, 7)]
        images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
        return dict(inputs=images, data_samples=labels)

    data = model.data_preprocessor(batch(), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        for result in model.eval().test_step(batch()):
            assert result.pred_score.shape == (classes,)
            assert result.pred_score.sum().item() == pytest.approx(1, abs=1e-4)
