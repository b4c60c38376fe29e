"""What a config says wrongly is named before anything is written."""

import pytest

from mmrfa.errors import InputError

from .tiny_runs import segmentation, train

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
    ('param_scheduler', [dict(type='PolyLR', stop=3)], 'stop'),
    ('param_scheduler', [dict(type='Sinking')], 'Sinking'),
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
    ('visualizer.type', 'NoPictures', 'visualizer'),
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
