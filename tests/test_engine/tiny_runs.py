"""Runs of a second, in processes that can be killed."""

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from test_tools.tool_calls import forget_instances
from torch import nn

import mmrfa.models  # noqa: F401
from mmrfa.checkpoints.reading import load_checkpoint_file
from mmrfa.engine.run import build_runner


@MODELS.register_module()
class TinyBackbone(BaseModule):
    """Two maps of eight channels, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 4, 4)
        self.second = nn.Conv2d(8, 8, 2, 2)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = nn.functional.dropout(self.first(x), 0.3, self.training)
        return x, self.norm(self.second(x).relu())


IMAGE = dict(mean=[127.0] * 3, std=[60.0] * 3, bgr_to_rgb=True)


def _run(work_dir: Path, hooks: dict, **parts) -> Config:
    # Entries that come from a config of another package have a scope.
    saving = dict(type='CheckpointHook', _scope_='mmengine', **hooks)
    return Config(
        dict(
            work_dir=str(work_dir),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
            default_hooks=dict(checkpoint=saving),
            custom_hooks=[dict(type='EMAHook', momentum=0.1, _scope_='mmdet')],
            visualizer=dict(type='Visualizer', vis_backends=[]),
            log_level='ERROR',
            randomness=dict(seed=3),
            **parts,
        ),
        format_python_code=False,  # slower than all else
    )


def segmentation(
    root: Path, work_dir: Path, workers: int = 0, end: int = 6, **hooks
) -> Config:
    """Counts iterations; a checkpoint after every second one."""
    data = dict(
        type='BaseSegDataset',
        data_root=f'{root}/VOCdevkit/VOC2012',
        data_prefix=dict(
            img_path='JPEGImages', seg_map_path='SegmentationClass'
        ),
        metainfo=dict(classes=('background', 'ball', 'book', 'kite')),
        indices=8,
        serialize_data=False,
    )
    size = (32, 32)
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    pack = dict(type='PackSegInputs')
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', seg_pad_val=255, size=size, **IMAGE
        ),
        backbone=dict(type='TinyBackbone'),
        decode_head=dict(
            type='FCNHead',
            in_channels=8,
            in_index=1,
            channels=8,
            num_convs=1,
            concat_input=False,
            num_classes=4,
            norm_cfg=dict(type='BN'),
        ),
        test_cfg=dict(mode='whole'),
    )
    train = dict(
        **data,
        ann_file='ImageSets/Segmentation/train.txt',
        pipeline=[
            *load,
            dict(type='RandomCrop', crop_size=size, cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            pack,
        ],
    )
    val = dict(
        **data,
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=[load[0], dict(type='Resize', scale=size), load[1], pack],
    )
    return _run(
        work_dir,
        dict(by_epoch=False, interval=2, max_keep_ckpts=1, **hooks),
        default_scope='mmseg',
        model=model,
        train_dataloader=dict(
            batch_size=2,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=train,
        ),
        val_dataloader=dict(
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=val,
        ),
        train_cfg=dict(by_epoch=False, max_iters=end, val_interval=3),
        val_cfg=dict(),
        val_evaluator=dict(type='IoUMetric'),
        param_scheduler=[dict(type='PolyLR', end=6, by_epoch=False)],
        log_processor=dict(by_epoch=False),
    )


def detection(
    root: Path, work_dir: Path, workers: int = 0, end: int = 3, **hooks
) -> Config:
    """Counts epochs, of four iterations each."""
    model = dict(
        type='FCOS',
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            pad_size_divisor=32,
            batch_augments=[
                dict(
                    type='BatchSyncRandomResize',
                    random_size_range=(32, 96),
                    interval=2,
                )
            ],
            **IMAGE,
        ),
        backbone=dict(type='TinyBackbone'),
        neck=dict(type='FPN', in_channels=[8, 8], out_channels=8, num_outs=2),
        bbox_head=dict(
            type='FCOSHead',
            num_classes=80,
            in_channels=8,
            stacked_convs=1,
            feat_channels=8,
            strides=[4, 8],
            regress_ranges=((-1, 32), (32, 1e8)),
            norm_cfg=dict(type='BN'),
        ),
    )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomCrop', crop_size=(64, 64)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackDetInputs'),
    ]
    return _run(
        work_dir,
        dict(interval=1, max_keep_ckpts=1, **hooks),
        default_scope='mmdet',
        model=model,
        train_dataloader=dict(
            batch_size=2,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='AspectRatioBatchSampler'),
            dataset=dict(
                type='CocoDataset',
                data_root=f'{root}/coco',
                ann_file='annotations/instances_train2017.json',
                data_prefix=dict(img='train2017/'),
                indices=8,
                serialize_data=False,
                pipeline=pipeline,
            ),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=end),
        param_scheduler=[dict(type='StepLR', step_size=2, by_epoch=True)],
    )


def train(
    config: Config, resume: bool = False, launcher: str = 'none'
) -> None:
    """Train in this process."""
    forget_instances()
    config.resume = resume
    # The report of the machine takes longer than the run.
    with mock.patch('mmengine.runner.runner.collect_env', dict):
        build_runner(config, launcher, train=True).train()


def trains() -> bool:
    """Not in the trial before the run, nor in validation."""
    return torch.is_grad_enabled()


def in_child(
    function: Callable[[], object], kill_after: float | None = None
) -> int:
    """Run a function in a fork of this process; its exit status.

    It is killed after so many seconds, if it is still there.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # What OpenMP has in the parent is not there in a fork.
            torch.set_num_threads(1)
            function()
            status = 0
        except SystemExit as error:
            status = error.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if kill_after is not None:
        end = time.monotonic() + kill_after
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killing(
    owner: object,
    name: str,
    when: Callable[..., bool],
    number: int = signal.SIGKILL,
    kill: Callable[[int, int], None] = os.kill,
) -> None:
    """Send this process, or its group, a signal in the place of a call."""
    call = getattr(owner, name)

    def killed(*args, **kwargs):
        if when(*args, **kwargs):
            kill(os.getpid(), number)
            if number == signal.SIGKILL:
                signal.pause()
            time.sleep(0.2)  # until it came to all of them
        return call(*args, **kwargs)

    setattr(owner, name, killed)


def kill_group(group: int, number: int) -> None:
    """As launchers do: all of a group, from outside of it."""
    child = os.fork()
    if child == 0:
        os.setpgrp()
        os.killpg(group, number)
        os._exit(0)
    os.waitpid(child, 0)


def assert_same(one: Path, other: Path) -> None:
    """Two checkpoints hold the same weights and states, to the last bit."""
    a, b = load_checkpoint_file(one), load_checkpoint_file(other)
    for part in 'state_dict', 'ema_state_dict':
        assert a[part].keys() == b[part].keys()
        for key, value in a[part].items():
            assert torch.equal(value, b[part][key]), key
    for key, state in a['optimizer']['state'].items():
        for name, value in state.items():
            assert torch.equal(value, b['optimizer']['state'][key][name])
    assert a['meta']['iter'] == b['meta']['iter']
    assert a.get('param_schedulers') == b.get('param_schedulers')
