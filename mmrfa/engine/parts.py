"""The parts of a config beside its model, built once before a run starts."""

import copy
import inspect
import math
import os
from typing import TYPE_CHECKING, NamedTuple

from mmrfa.datasets.data_root import leaves
from mmrfa.engine.arguments import registered
from mmrfa.engine.hooks import (
    check_averages,
    check_hooks,
    check_monitors,
    check_visualizer,
)
from mmrfa.engine.listed import check_listed, turned_images
from mmrfa.engine.naming import naming
from mmrfa.engine.schedules import check_schedules
from mmrfa.engine.trial import try_testing, try_training
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.evaluator import Evaluator
    from mmengine.optim import OptimWrapper
    from torch import nn
    from torch.optim import Optimizer
    from torch.utils.data import Dataset

# What each stage of a run needs, all or nothing.
STAGES = dict(
    train=('train_dataloader', 'train_cfg', 'optim_wrapper'),
    val=('val_dataloader', 'val_cfg', 'val_evaluator'),
    test=('test_dataloader', 'test_cfg', 'test_evaluator'),
)
# Of a loader, without which it loads in this process.
_OF_WORKERS = (
    'num_workers',
    'persistent_workers',
    'prefetch_factor',
    'multiprocessing_context',
    'timeout',
)
_COUNTS = ('max_iters', 'max_epochs', 'val_begin', 'val_interval')


class Parts(NamedTuple):
    """What was built.

    Attributes:
        datasets (list[tuple[dict, Dataset]]): settings and data set of each
            loader, so that the run need not build them again.
        optim_wrapper (OptimWrapper | None): with the optimizer; None in a
            test.
        notes (list[str]): for the log.
    """

    datasets: list[tuple[dict, 'Dataset']]
    optim_wrapper: 'OptimWrapper | None'
    notes: list[str]


def check_parts(
    config: 'Config', model: 'nn.Module', kind: type, train: bool
) -> Parts:
    """Build everything that a run would, once, and try a first batch.

    Args:
        config (Config): not changed.
        model (nn.Module): of the run; the optimizer is built for it and
            thrown away.
        kind (type): of the Runner.
        train (bool): whether to train or to test.

    Returns:
        Parts: what was built.

    Raises:
        InputError: names the key, what is wrong with it and the place.
    """
    from mmengine.model import BaseTTAModel

    stages = ('train', 'val') if train else ('test',)
    for stage in stages:
        keys = STAGES[stage]
        lacking = [key for key in keys if config.get(key) is None]
        if lacking and (stage != 'val' or len(lacking) < len(keys)):
            raise InputError(
                f'config {config.filename}: expected {", ".join(keys)}, '
                f'found no {", ".join(lacking)}'
            )
    inner = model.module if isinstance(model, BaseTTAModel) else model
    check_visualizer(config)
    hooks = check_hooks(config)
    if train:
        _check_of_model(config, inner)
    datasets, batches, loops, lengths, notes = [], {}, {}, {}, []
    for stage in stages:
        loader, loop, _ = STAGES[stage]
        if config.get(loader) is None:
            continue
        loops[stage] = _check_loop(config, loop, stage)
        evaluator = None
        if stage != 'train':
            evaluator = _check_evaluator(config, f'{stage}_evaluator')
        settings, dataset, batch, lengths[stage] = _check_loader(
            config, loader, kind
        )
        _check_classes(config, loader, dataset, inner)
        notes += turned_images(config, loader, dataset)
        datasets.append((settings, dataset))
        if loops[stage].__module__.startswith('mmengine.'):
            batches[stage] = batch, evaluator
        if evaluator and getattr(dataset, 'metainfo', None):
            evaluator.dataset_meta = dataset.metainfo
    wrapper = None
    if train:
        wrapper = _check_optimizer(config, inner)
        notes += check_schedules(
            config, wrapper, loops['train'], lengths['train']
        )
        check_averages(config, hooks, inner)
    for stage, (batch, evaluator) in batches.items():
        if stage == 'train':
            try_training(config, model, batch, wrapper)
            continue
        metrics = try_testing(config, model, batch, evaluator, stage)
        if metrics is not None and stage == 'val':
            check_monitors(config, hooks, metrics)
    return Parts(datasets, wrapper, notes)


def _check_of_model(config: 'Config', model: 'nn.Module') -> None:
    """What the Runner does with the model, the rate and their names."""
    for key in 'activation_checkpointing', 'efficient_conv_bn_eval':
        names = config.get(key)
        names = [names] if isinstance(names, str) else names
        with naming(config, key, 'does not fit the model'):
            for name in names or ():
                model.get_submodule(name)
    scale = config.get('auto_scale_lr')
    if scale is None:
        return
    size = scale.get('base_batch_size') if isinstance(scale, dict) else None
    if not isinstance(scale, dict) or (
        scale.get('enable') and (type(size) is not int or size < 1)
    ):
        raise InputError(
            f'config {config.filename}: auto_scale_lr: expected a dict with a '
            f'base_batch_size of 1 or more, got {scale!r}'
        )


def _check_loop(config: 'Config', key: str, stage: str) -> type:
    from mmengine.registry import LOOPS
    from mmengine.runner.utils import calc_dynamic_intervals

    settings = config[key]
    with naming(config, key):
        if not isinstance(settings, dict):
            raise TypeError(f'expected a dict, got {settings!r}')
        if stage == 'train' and not {'type', 'by_epoch'} & set(settings):
            raise KeyError('expected type or by_epoch')
        by_epoch = settings.get('by_epoch')
        default = dict(
            train='EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop',
            val='ValLoop',
            test='TestLoop',
        )[stage]
        rest = {'type': default, **settings}
        if 'type' not in settings:
            rest.pop('by_epoch', None)
        kind = registered(LOOPS, rest)
        needed = dict(runner=None, dataloader=None)
        if stage != 'train':
            needed['evaluator'] = None
        inspect.signature(kind).bind(**needed, **rest)
        if stage == 'train':
            counts = {name: settings.get(name, 1) for name in _COUNTS}
            _check_counts(config, key, counts)
            _, intervals = calc_dynamic_intervals(
                1, settings.get('dynamic_intervals')
            )
            counts = {f'dynamic_intervals {i}': i for i in intervals}
            _check_counts(config, key, counts)
    return kind


def _check_counts(config: 'Config', key: str, counts: dict) -> None:
    for name, value in counts.items():
        least = int(name != 'val_begin')
        # What is counted to must be a C int.
        most = 2**31 - 1 if name.startswith('max_') else math.inf
        if type(value) is not int or not least <= value <= most:
            raise InputError(
                f'config {config.filename}: {key}.{name}: expected a whole '
                f'number of {least} or more, got {value!r}'
                + ', which is too much'
                * (type(value) is int and value > most)
            )


def _check_evaluator(config: 'Config', key: str) -> 'Evaluator':
    from mmengine.evaluator import BaseMetric, Evaluator

    with naming(config, key):
        settings = config[key]
        if isinstance(settings, dict) and 'metrics' in settings:
            settings = settings['metrics']
        evaluator = Evaluator(settings)
        for metric in evaluator.metrics:
            if not isinstance(metric, BaseMetric):
                raise TypeError(f'expected metrics, got {metric!r}')
    return evaluator


class _Given:
    """A data set that MMEngine takes as it is instead of a copy."""

    def __init__(self, dataset: 'Dataset') -> None:
        self.dataset = dataset

    def __deepcopy__(self, _: dict) -> 'Dataset':
        return self.dataset


def given(loader: dict, dataset: 'Dataset') -> dict:
    """Settings of a loader that take a data set that was built before.

    Args:
        loader (dict): settings.
        dataset (Dataset): built from ``loader['dataset']``.

    Returns:
        dict: for ``Runner.build_dataloader``.
    """
    return dict(loader, dataset=_Given(dataset))


def _check_loader(config: 'Config', key: str, kind: type) -> tuple:
    from mmengine.registry import DATASETS

    with naming(config, f'{key}.dataset'):
        settings = config[key]['dataset']
        for leaf in leaves(settings):
            for number, step in enumerate(leaf.get('pipeline') or []):
                if not isinstance(step, dict) or 'type' not in step:
                    raise TypeError(
                        f'pipeline[{number}]: expected a dict with type, got '
                        f'{step!r}'
                    )
        dataset = DATASETS.build(copy.deepcopy(settings))
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        size = len(dataset)
    if not size:
        raise InputError(
            f'config {config.filename}: {key}.dataset: expected samples, got '
            'none; an empty list, or a filter that leaves nothing'
        )
    with naming(config, key):
        loader = kind.build_dataloader(given(config[key], dataset), seed=0)
        length = len(loader)
    pipeline = f'{key}.dataset.pipeline'
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    places = {id(t): f'{pipeline}[{i}]' for i, t in enumerate(steps)}
    with naming(config, pipeline, 'fails', places):
        sample = dataset[0]
    check_listed(config, key, dataset)
    _check_memory(config, key, sample)
    _check_shared_memory(config, key, sample)
    here = dict(config[key])
    if here.get('num_workers'):
        here = {k: v for k, v in here.items() if k not in _OF_WORKERS}
    with naming(config, key, 'fails', places):
        loader = kind.build_dataloader(given(here, dataset), seed=0)
        batch = next(iter(loader), None)
    if batch is None:
        raise InputError(
            f'config {config.filename}: {key}: expected batches, got none; '
            f'see its sampler and batch_size, of {size} samples'
        )
    return settings, dataset, batch, length


def _check_memory(config: 'Config', key: str, sample: object) -> None:
    """A batch that no machine holds would be filled until it is full."""
    if not hasattr(os, 'sysconf'):
        return  # Windows
    room = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    size = config[key].get('batch_size') or 1
    need = _bytes_of(sample) * size
    if need > room:
        raise InputError(
            f'config {config.filename}: {key}.batch_size: expected batches '
            f'that fit the {room >> 30} GiB of this machine, got {size} '
            f'samples of {_bytes_of(sample) / 2**20:.1f} MiB'
        )


def _check_shared_memory(config: 'Config', key: str, sample: object) -> None:
    """Workers hang, or die, where their batches find no room."""
    loader, place = config[key], '/dev/shm'
    workers = loader.get('num_workers', 0)
    if not workers or not os.path.isdir(place):
        return
    room = os.statvfs(place)
    room = room.f_bavail * room.f_frsize
    ahead = loader.get('prefetch_factor') or 2
    need = (
        _bytes_of(sample) * (loader.get('batch_size') or 1) * ahead * workers
    )
    if need > room:
        raise InputError(
            f'{key}: expected {need >> 20} MiB in {place} for {workers} '
            f'workers, found {room >> 20}; give the machine more (docker run '
            f'--shm-size), or use --cfg-options {key}.num_workers=0 '
            f'{key}.persistent_workers=False'
        )


def _bytes_of(value: object) -> int:
    from mmengine.structures import BaseDataElement
    from torch import Tensor

    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, BaseDataElement):
        value = dict(value.items())
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_bytes_of, value)) if isinstance(value, list) else 0


def _check_classes(
    config: 'Config', key: str, dataset: 'Dataset', model: 'nn.Module'
) -> None:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if not isinstance(classes, list | tuple):
        return
    for name in ('decode_head', 'bbox_head', 'roi_head.bbox_head', 'head'):
        head = model
        for part in name.split('.'):
            head = getattr(head, part, None)
        count = getattr(head, 'num_classes', None)
        if isinstance(count, int) and count != len(classes):
            raise InputError(
                f'config {config.filename}: model.{name}.num_classes: '
                f'expected the {len(classes)} classes of {key}.dataset, got '
                f'{count}'
            )


def _try_step(optimizer: 'Optimizer') -> None:
    """Step by nothing; some need a closure, or sparse gradients, or a GPU."""
    import torch
    from mmengine.device import get_device

    if not type(optimizer).__module__.startswith('torch.optim'):
        return  # it may have ways of its own
    one = torch.nn.Parameter(torch.zeros(1, 1, device=get_device()))
    one.grad = torch.zeros_like(one)
    kind, (group, *_) = type(optimizer), optimizer.param_groups
    known = inspect.signature(kind).parameters.keys()
    defaults = {
        key: value for key, value in optimizer.defaults.items() if key in known
    }
    kind([dict(group, params=[one])], **defaults).step()


def _check_optimizer(config: 'Config', model: 'nn.Module') -> object:
    import torch
    from mmengine.optim import (
        OptimWrapper,
        OptimWrapperDict,
        build_optim_wrapper,
    )

    with naming(config, 'optim_wrapper'):
        # MMEngine takes entries out of it.
        wrapper = build_optim_wrapper(
            model, copy.deepcopy(config.optim_wrapper)
        )
    if not isinstance(wrapper, OptimWrapper) or isinstance(
        wrapper, OptimWrapperDict
    ):
        return wrapper
    if wrapper.clip_grad_kwargs:
        with naming(config, 'optim_wrapper.clip_grad', 'does not fit'):
            one = torch.nn.Parameter(torch.zeros(1))
            one.grad = torch.zeros(1)
            wrapper.clip_func([one], **wrapper.clip_grad_kwargs)
    with naming(config, 'optim_wrapper.optimizer', 'cannot step'):
        _try_step(wrapper.optimizer)
    for group in wrapper.optimizer.param_groups:
        for name, value in group.items():
            if isinstance(value, int | float) and not (
                math.isfinite(value) and value >= 0
            ):
                raise InputError(
                    f'config {config.filename}: optim_wrapper.optimizer.'
                    f'{name}: expected a finite number of 0 or more, got '
                    f'{value}'
                )
    return wrapper
