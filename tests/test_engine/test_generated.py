"""Whatever a config says wrongly: one line before a run, or it runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from test_tools.tool_calls import TINY_SEG

from mmrfa.engine.config import load_config

from . import tiny_runs
from .mutations import failures

UNUSED = (
    'auto_scale_lr', 'backend_args', 'custom_imports', 'data_root', 'dataset',
    'load', 'metainfo', 'pack', 'resize', 'test_cfg', 'test_dataloader',
    'test_evaluator', 'tta_model', 'tta_pipeline',
)  # fmt: skip


def segmentation(root: Path) -> Config:
    config = load_config(
        str(TINY_SEG.with_name('tinier_seg.py')),
        {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2},
    )
    for key in UNUSED:
        config.pop(key, None)
    config.model.data_preprocessor.size = crop = (32, 32)
    train, val = config.train_dataloader, config.val_dataloader
    train.dataset.pipeline[2].scale = val.dataset.pipeline[1].scale = crop
    train.batch_size, train.dataset.indices = 2, 4
    val.dataset.indices = 2
    config.log_level = 'ERROR'
    config.work_dir = 'work'
    return config


def detection(root: Path) -> Config:
    config = tiny_runs.detection(root, Path('work'), end=1)
    data = dict(config.train_dataloader.dataset, indices=4, test_mode=True)
    data['pipeline'] = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64)),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ]
    config.train_dataloader.dataset.indices = 2
    config.val_dataloader = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=data,
    )
    config.val_cfg = dict(type='ValLoop')
    config.model.test_cfg = dict(
        nms_pre=100,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=10,
    )
    config.val_evaluator = dict(
        type='CocoMetric',
        ann_file=f'{root}/coco/annotations/instances_train2017.json',
        metric='bbox',
    )
    return config


@pytest.mark.parametrize(
    ('make', 'count'),
    # None in the place of a number takes them all: 1750 and 1430.
    [(segmentation, 30), (detection, 60)],
)
def test_clean(
    make: Callable, count: int | None, sample_root, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(sample_root))
    monkeypatch.chdir(tmp_path)
    tree = make(sample_root).to_dict()
    found = failures(tree, tmp_path / 'here', count)
    assert not found, '\n'.join(found)
