"""Whatever the config of a classifier says wrongly is named, or it runs."""

import shutil
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest

from ..test_engine import tiny_runs  # noqa: F401  TinyBackbone
from ..test_engine.mutations import failures

IMAGE = dict(mean=[127.0] * 3, std=[60.0] * 3, to_rgb=True)


@pytest.mark.skipif(
    find_spec('mmpretrain') is None,
    reason='needs mmpretrain; `make test-classification` has it',
)
def test_clean(sample_root: Path, tmp_path: Path, monkeypatch) -> None:
    images = sorted((sample_root / 'VOCdevkit/VOC2012/JPEGImages').iterdir())
    for number, image in enumerate(images[:4]):
        folder = tmp_path / 'data' / f'class{number % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder)
    monkeypatch.chdir(tmp_path)
    # None in the place of the number takes them all: 1027.
    found = failures(config(tmp_path / 'data'), tmp_path / 'here', 40)
    assert not found, '\n'.join(found)


def config(data: Path) -> dict:
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=32),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs'),
    ]
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(
            type='CustomDataset', data_prefix=str(data), pipeline=pipeline
        ),
    )
    saving = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
    return dict(
        default_scope='mmpretrain',
        work_dir='work',
        log_level='ERROR',
        model=dict(
            type='ImageClassifier',
            data_preprocessor=dict(num_classes=2, **IMAGE),
            backbone=dict(type='TinyBackbone'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead',
                num_classes=2,
                in_channels=8,
                loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
                topk=(1,),
            ),
        ),
        train_dataloader=loader,
        val_dataloader=deepcopy(loader),
        train_cfg=dict(by_epoch=True, max_epochs=1, val_interval=1),
        val_cfg=dict(),
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
            clip_grad=dict(max_norm=5.0),
        ),
        param_scheduler=dict(type='MultiStepLR', milestones=[1], gamma=0.1),
        default_hooks=dict(checkpoint=saving),
    )
