"""What a config says wrongly is named before anything is written."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import (
    DATASETS,
    HOOKS,
    MODELS,
    init_default_scope,
)
from PIL import ExifTags, Image, ImageFile

from mmrfa.datasets import check_images
from mmrfa.engine import parts
from mmrfa.engine.checkpoint_hook import KeepingCheckpointHook
from mmrfa.engine.cli import user_message
from mmrfa.engine.hooks import check_hooks
from mmrfa.engine.listed import turned_images
from mmrfa.errors import InputError

from .tiny_runs import detection, segmentation, train

LOADER, VAL = 'train_dataloader', 'val_dataloader'
OPTIMIZER = 'optim_wrapper.optimizer'
WRONG = [
    ('log_level', 'LOUD', 'log_level'),
    ('randomness', 3, 'randomness'),
    ('randomness.seed', -1, 'seed'),
    ('randomness.seed', 'one', 'seed'),
    (f'{LOADER}.dataset.type', 'NoData', 'NoData'),
    (f'{LOADER}.dataset.indexes', 3, 'indexes'),
    (f'{LOADER}.dataset.pipeline', [dict(type='Flop')], 'Flop'),
    (f'{LOADER}.dataset.metainfo', dict(classes=('a', 'b')), '2 classes'),
    (f'{LOADER}.sampler.type', 'NoSampler', LOADER),
    (f'{LOADER}.sampler', 3, LOADER),
    (f'{LOADER}.batch_size', 0, LOADER),
    (f'{LOADER}.batch_size', 'two', LOADER),
    (f'{LOADER}.batch_size', 10**9, 'batches that fit the .* GiB'),
    (f'{LOADER}.num_workers', -1, LOADER),
    (f'{LOADER}.persistent_workers', True, LOADER),
    (f'{VAL}.dataset.ann_file', 'nowhere.txt', 'nowhere.txt'),
    (VAL, None, 'found no val_dataloader'),
    ('val_evaluator.type', 'NoMetric', 'val_evaluator'),
    ('optim_wrapper', None, 'found no optim_wrapper'),
    (f'{OPTIMIZER}.type', 'Adamm', 'optim_wrapper'),
    (f'{OPTIMIZER}.lr', float('inf'), 'lr: expected a finite number'),
    (f'{OPTIMIZER}.lr', float('nan'), 'lr: expected a finite number'),
    (f'{OPTIMIZER}.lr', -1, 'learning rate: -1'),
    (f'{OPTIMIZER}.lr', 'fast', 'optim_wrapper'),
    (f'{OPTIMIZER}.rate', 1, 'rate'),
    (OPTIMIZER, dict(type='LBFGS'), 'optimizer cannot step: .*closure'),
    (OPTIMIZER, dict(type='SparseAdam'), 'optimizer cannot step: .*dense'),
    (
        'optim_wrapper.paramwise_cfg',
        dict(custom_keys=dict(head=dict(lr_mult=-1.0))),
        'lr',
    ),
    ('optim_wrapper.clip_grad', dict(max_norm='far'), 'clip_grad'),
    ('model.data_preprocessor.std', [1.0, 0.0, 1.0], 'std.1: .* above 0'),
    ('model.decode_head.in_channels', 9, 'model.decode_head.*cannot be tra'),
    ('model.test_cfg.mode', 'half', 'model fails in val: .*"slide"'),
    ('val_evaluator.iou_metrics', ['mIou'], 'val_evaluator fails'),
    ('param_scheduler', [dict(type='PolyLR', stop=3)], 'stop'),
    ('param_scheduler', [dict(type='Sinking')], 'Sinking'),
    (
        'param_scheduler',
        [dict(type='StepLR', step_size=0, by_epoch=False)],
        'param_scheduler.0.: fails after iteration 1',
    ),
    ('param_scheduler', [dict(type='PolyLR')], 'expected by_epoch=False'),
    (
        'param_scheduler',
        [dict(type='MultiStepLR', milestones=[-2], by_epoch=False)],
        'param_scheduler.0.milestones.0: expected a number of 0 or more',
    ),
    ('train_cfg.max_iters', 0, 'train_cfg.max_iters'),
    ('train_cfg.max_iters', 2.5, 'train_cfg.max_iters'),
    ('train_cfg.val_interval', 0, 'train_cfg.val_interval'),
    ('train_cfg', dict(max_iters=3), 'train_cfg'),
    ('train_cfg.type', 'NoLoop', 'NoLoop'),
    ('default_hooks.checkpoint.intervall', 3, 'intervall'),
    ('default_hooks.logger', dict(type='NoHook'), 'NoHook'),
    ('default_hooks', [1], 'default_hooks'),
    ('custom_hooks', [dict(type='LoggerHook', pace=1)], 'pace'),
    ('custom_hooks', [3], 'custom_hooks'),
    ('custom_hooks', [None], 'custom_hooks.0.'),
    (
        'visualizer',
        dict(type='SegLocalVisualizer', nothing=1),
        'visualizer cannot be built: .*nothing',
    ),
    ('visualizer.type', 'NoPictures', 'visualizer'),
    (
        'visualizer.vis_backends',
        [dict(type='MLflowVisBackend')],
        'vis_backends.0. cannot be built: ModuleNotFoundError',
    ),
    ('optim_wrapper.clip_grad', dict(max_norm=-1), 'max_norm: .* above 0'),
    ('optim_wrapper.accumulative_counts', 2.5, 'counts: .* whole number'),
    ('train_cfg.dynamic_intervals', [(0, 0)], 'intervals 0: .* whole number'),
    ('train_cfg.dynamic_intervals', [3], 'train_cfg'),
    ('train_cfg.val_begin', 'x', 'train_cfg.val_begin: .* whole number'),
    (
        'custom_hooks',
        [dict(type='EMAHook', begin_iter=99)],
        'custom_hooks.0. does not fit the run: .*begin_iter: 99',
    ),
    (
        'custom_hooks',
        [dict(type='EMAHook', momentum=2.0)],
        'custom_hooks.0. cannot be built: .*momentum',
    ),
    (
        'custom_hooks',
        [dict(type='EMAHook', priority='SOON')],
        'custom_hooks.0. cannot be built: KeyError: SOON',
    ),
    (
        'custom_hooks',
        [
            dict(
                type='mmdet.PipelineSwitchHook',
                switch_epoch=1,
                switch_pipeline=[dict(type='Flop')],
            )
        ],
        'custom_hooks.0..*Flop',
    ),
    (
        'custom_hooks',
        [dict(type='EarlyStoppingHook', monitor='mAccuracy')],
        'custom_hooks.0..monitor: .* metrics aAcc, mAcc, mIoU, got mAccuracy',
    ),
    (
        'param_scheduler',
        [dict(type='ReduceOnPlateauLR', monitor='loss')],
        'param_scheduler.0..monitor: .* aAcc, mAcc, mIoU, got loss',
    ),
    (
        'default_hooks.checkpoint',
        dict(type='CheckpointHook', by_epoch=False, save_best='aAccuracy'),
        'checkpoint.save_best: expected one of the metrics aAcc, mAcc, mIoU',
    ),
    ('default_hooks.checkpoint.filename_tmpl', 'a.pth', 'for the step'),
    ('default_hooks.checkpoint.out_dir', __file__, 'out_dir .* not a folder'),
    (f'{LOADER}.num_batch_per_epoch', 0, 'num_batch_per_epoch'),
    (f'{LOADER}.timeout', 5, LOADER),
    ('activation_checkpointing', ['neck'], 'activation_checkpointing'),
    ('auto_scale_lr', dict(enable=True), 'auto_scale_lr: expected a dict'),
    ('load_from', 3, 'load_from: expected a file, got 3'),
    ('train_cfg.max_iters', 2**63, 'max_iters: expected .* too much'),
    ('visualizer.name', '', 'visualizer cannot be built: .*name: expected'),
    ('log_processor.type', 'NoLog', 'log_processor'),
]


@pytest.mark.parametrize(('key', 'value', 'named'), WRONG)
def test_named(sample_root, tmp_path, key, value, named) -> None:
    config = segmentation(sample_root, tmp_path / 'work')
    node = config
    *path, last = key.split('.')
    for part in path:
        node = node[part]
    node[last] = value
    with pytest.raises(InputError, match=named) as caught:
        train(config)
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'work').exists()


def test_a_dead_worker_is_one_line(sample_root, tmp_path) -> None:
    """As where memory runs out."""
    config = segmentation(sample_root, tmp_path, workers=1)
    config.default_hooks.checkpoint.interval = 99

    def died(self, *_):
        if torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, *_)

    call = LoadImageFromFile.transform
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadImageFromFile, 'transform', died)
        with pytest.raises(RuntimeError) as caught:
            train(config)
    line = user_message(caught.value)
    assert line.startswith('DataLoader worker') and '\n' not in line


@pytest.fixture
def refused(sample_root, tmp_path):
    """``refused(match, change)``: train what was changed in a copy."""

    def run(match: str, change=None, **top: object) -> None:
        root, work = tmp_path / 'data', tmp_path / 'work'
        shutil.copytree(sample_root, root, dirs_exist_ok=True)
        config = segmentation(root, work)
        config.merge_from_dict(top)
        if change is not None:
            change(root / 'VOCdevkit/VOC2012', config)
        with pytest.raises(InputError, match=match) as caught:
            train(config)
        assert '\n' not in str(caught.value)
        assert not work.exists()

    return run


@pytest.mark.parametrize(
    ('content', 'match'),
    [
        (b'', 'train_dataloader.dataset: expected samples, got none'),
        (b'caf\xe9\n', 'train_dataloader.dataset cannot be built: Unicode'),
        (b'../a\n', 'train_dataloader.dataset.pipeline.0. fails: FileNot'),
    ],
    ids=['empty', 'latin-1', 'elsewhere'],
)
def test_list_of_images(refused, content, match) -> None:
    def change(root, config) -> None:
        (root / 'ImageSets/Segmentation/train.txt').write_bytes(content)
        load = config.train_dataloader.dataset.pipeline[0]
        load.backend_args = dict(backend='local')  # and no other one

    refused(match, change)


@pytest.mark.parametrize(
    ('number', 'match'),
    [
        (0, 'train_dataloader.dataset.pipeline.0.: .*expected an image, got:'),
        (5, 'train_dataloader.dataset: expected all files that are listed'),
    ],
)
@pytest.mark.parametrize('folder', ['JPEGImages', 'SegmentationClass'])
def test_files_that_are_not_there(refused, folder, number, match) -> None:
    def change(root, config) -> None:
        names = (root / 'ImageSets/Segmentation/train.txt').read_text().split()
        (path,) = (root / folder).glob(f'{names[number]}.*')
        path.unlink()

    if folder == 'SegmentationClass':
        match = match.replace('.0.', '.1.')
    refused(match, change)


@pytest.mark.parametrize('loader', [LOADER, VAL])
def test_cut_images_are_named_in_any_config(refused, loader) -> None:
    """Also where another package told Pillow to accept them."""

    def change(root, config) -> None:
        split = 'train' if loader == LOADER else 'val'
        names = root / f'ImageSets/Segmentation/{split}.txt'
        for name in names.read_text().split():
            path = root / f'JPEGImages/{name}.jpg'
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2])

    for accepted in False, True:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', accepted)
            refused(f'{loader}.*.jpg: expected an image, got a dam', change)


def test_box_that_is_no_number(sample_root, tmp_path) -> None:
    shutil.copytree(sample_root, tmp_path / 'data')
    path = tmp_path / 'data/coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    boxes = [a for a in content['annotations'] if a['image_id'] == 5]
    boxes[0]['bbox'][2] = float('inf')
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match='train_dataloader.*inf.*000005.jpg'):
        train(detection(tmp_path / 'data', tmp_path / 'work'))
    assert not (tmp_path / 'work').exists()


def test_ids_that_occur_twice(sample_root, tmp_path) -> None:
    """COCO's reader would drop one of the images, and say nothing."""
    shutil.copytree(sample_root, tmp_path / 'data')
    path = tmp_path / 'data/coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    content['images'][1]['id'] = content['images'][0]['id']
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match='images: ids that occur twice'):
        train(detection(tmp_path / 'data', tmp_path / 'work'))
    assert not (tmp_path / 'work').exists()


def test_boxes_that_exif_turns_away_from(sample_root, tmp_path) -> None:
    """Annotated as stored, read as turned: told, as no box looks wrong."""
    shutil.copytree(sample_root, tmp_path / 'data')
    config = detection(tmp_path / 'data', tmp_path / 'work', end=1)
    init_default_scope('mmdet')
    check_images(config)
    loader = config.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    path = Path(dataset.get_data_info(3)['img_path'])
    with Image.open(path) as image:
        stored = image.width, image.height // 2
        wide, exif = image.resize(stored), image.getexif()
    annotations = tmp_path / 'data/coco/annotations/instances_train2017.json'
    content = json.loads(annotations.read_text())
    (entry,) = (i for i in content['images'] if i['file_name'] == path.name)
    for turn, size, color, told in (
        (6, stored, 'color', True),
        (6, stored[::-1], 'color', False),  # annotated as seen
        (1, stored, 'color', False),
        (6, stored, 'color_ignore_orientation', False),
    ):
        exif[ExifTags.Base.Orientation] = turn
        wide.save(path, exif=exif)
        entry.update(width=size[0], height=size[1])
        annotations.write_text(json.dumps(content))
        loader.dataset.pipeline[0].color_type = color
        dataset = DATASETS.build(loader.dataset)
        found = turned_images(config, 'train_dataloader', dataset)
        assert len(found) == told
        assert not told or f'EXIF turns 1 images, {path} ...' in found[0]
    loader.dataset.pipeline[0].color_type = 'color'
    exif[ExifTags.Base.Orientation] = 6
    wide.save(path, exif=exif)
    entry.update(width=stored[0], height=stored[1])
    annotations.write_text(json.dumps(content))
    config.log_level = 'INFO'
    train(config)
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert 'train_dataloader: EXIF turns 1 images' in log.read_text()


def test_class_of_another_name(sample_root, tmp_path) -> None:
    """COCO's reader would leave out its boxes, and shift the labels."""
    config = detection(sample_root, tmp_path / 'work')
    classes = list(CocoDataset.METAINFO['classes'])
    classes[36] = 'dragon'
    config.train_dataloader.dataset.metainfo = dict(classes=classes)
    with pytest.raises(InputError, match='label 36 for surfboard'):
        train(config)
    assert not (tmp_path / 'work').exists()


def test_mask_of_one_pixel(refused) -> None:
    def change(root, config) -> None:
        for mask in (root / 'SegmentationClass').iterdir():
            Image.fromarray(np.zeros((1, 1), np.uint8)).save(mask)
        step = dict(type='CheckMask', num_classes=4)
        config.train_dataloader.dataset.pipeline.insert(2, step)

    refused('expected the height and width of its image .* single row', change)


def test_memory_that_workers_share(refused, monkeypatch) -> None:
    room = SimpleNamespace(f_bavail=1, f_frsize=1 << 12)
    monkeypatch.setattr(parts.os, 'statvfs', lambda place: room)
    workers = {
        'train_dataloader.num_workers': 2,
        'train_dataloader.persistent_workers': True,
    }
    refused('MiB in /dev/shm for 2 workers, found 0; give', **workers)


def test_weights_that_fit_nothing(refused, tmp_path) -> None:
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict=dict(a=torch.zeros(3))), path)
    refused(
        "got none of its names and shapes .first: 'a'", load_from=str(path)
    )


@pytest.mark.parametrize('form', ['bare', 'strange'])
def test_weights_alone(sample_root, tmp_path, form) -> None:
    """Of what is beside them, nothing is needed, or looked at."""
    config = segmentation(sample_root, tmp_path / 'work', end=1)
    init_default_scope(config.default_scope)
    weights = MODELS.build(config.model).state_dict()
    path = tmp_path / 'weights.pth'
    strange = dict(state_dict=weights, meta=[3], message_hub=None)
    torch.save(weights if form == 'bare' else strange, path)
    config.load_from = str(path)
    train(config)


def test_plain_network_of_another_depth(refused, tmp_path) -> None:
    from mmrfa.models import RFAResNet

    path = tmp_path / 'plain.pth'
    torch.save(RFAResNet(34, base_channels=8).state_dict(), path)
    init = dict(type='PretrainedResNet', checkpoint=str(path))

    def change(root, config) -> None:
        config.model.backbone = dict(
            type='RFAResNet', depth=18, base_channels=8, init_cfg=init
        )
        config.model.decode_head.in_channels = 16

    refused('plain.pth', change)


def test_backend_that_cannot_run(refused, monkeypatch) -> None:
    """At the first batch that is tried, not at the first step."""
    from mmrfa.ops import dispatch
    from mmrfa.ops.primitives import support

    monkeypatch.setattr(dispatch, '_forced', ('compiled', 'MMRFA_BACKEND'))
    monkeypatch.setattr(support, 'unavailable', lambda: 'an old torch')

    def change(root, config) -> None:
        config.model.backbone = dict(
            type='RFAResNet', depth=18, base_channels=8,
            attention_conv=dict(type='RFAConv'),
        )  # fmt: skip
        config.model.decode_head.in_channels = 16

    refused("backend 'compiled' cannot run rfa_conv2d: an old", change)


def test_a_hook_of_their_own_is_registered_as_it_is():
    """MMEngine's CheckpointHook alone is replaced."""

    @HOOKS.register_module(force=True)
    class HookOfTheirs(CheckpointHook):
        def __init__(self, extra: int, **options) -> None:
            super().__init__(**options)

    def built(**settings):
        return check_hooks(Config(dict(default_hooks=dict(a=settings))))

    assert built(type='HookOfTheirs', extra=3) == {}
    ours = built(type='CheckpointHook', interval=3)['default_hooks.a']
    assert type(ours) is KeepingCheckpointHook
