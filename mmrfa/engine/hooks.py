"""Hooks and visualizers, looked at before a run."""

from collections.abc import Set
from importlib import import_module
from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mmrfa.checkpoints.writing import check_folder
from mmrfa.engine.arguments import bound
from mmrfa.engine.naming import naming
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from torch import nn

# What MMEngine imports once there is something to show.
_PACKAGES = dict(
    TensorboardVisBackend='torch.utils.tensorboard',
    WandbVisBackend='wandb',
    MLflowVisBackend='mlflow',
    ClearMLVisBackend='clearml',
    NeptuneVisBackend='neptune',
    DVCLiveVisBackend='dvclive',
    AimVisBackend='aim',
)
# Their visualizers give MMEngine's all arguments that they do not know.
_PASSING_ON = ('mmengine.', 'mmseg.', 'mmdet.')
# Of a run that counts the other unit.
_NO_END = 10**9


def check_hooks(config: 'Config') -> dict[str, 'Hook']:
    """Build the hooks of MMEngine and ours, and look at all others.

    Args:
        config (Config): of the run.

    Returns:
        dict[str, Hook]: what was built, by key.

    Raises:
        InputError: names the key.
    """
    from mmengine.dataset import Compose
    from mmengine.hooks import CheckpointHook
    from mmengine.registry import HOOKS, LOG_PROCESSORS
    from mmengine.runner.priority import get_priority

    from mmrfa.engine.checkpoint_hook import KeepingCheckpointHook

    hooks = config.get('default_hooks')
    hooks = {} if hooks is None else hooks
    custom = config.get('custom_hooks')
    custom = [] if custom is None else custom
    if not isinstance(custom, list | tuple):
        raise InputError(
            f'config {config.filename}: custom_hooks: expected a list, got '
            f'{custom!r}'
        )
    with naming(config, 'default_hooks'):
        named = {f'default_hooks.{k}': v for k, v in hooks.items()}
    for number, value in enumerate(custom):
        named[f'custom_hooks[{number}]'] = value
    built = {}
    for key, value in named.items():
        if value is None and key.startswith('default_hooks'):
            continue  # left out
        with naming(config, key):
            settings = dict(value)
            get_priority(settings.pop('priority', 'NORMAL'))
            kind = bound(HOOKS, settings)
            for entry in ('type', '_scope_'):
                settings.pop(entry, None)
            if kind is CheckpointHook:  # as the Runner does
                kind = KeepingCheckpointHook
            # Others may need what only a run has.
            if kind.__module__.startswith(('mmengine.', 'mmrfa.')):
                built[key] = kind(**settings)
            Compose(settings.get('switch_pipeline') or [])
        if kind is KeepingCheckpointHook:
            out = str(built[key].out_dir or '')
            if out and '://' not in out:
                check_folder(out, f'{key}.out_dir')
    with naming(config, 'log_processor'):
        settings = config.get('log_processor')
        settings = {} if settings is None else dict(settings)
        settings.setdefault('type', 'LogProcessor')
        LOG_PROCESSORS.build(settings)
    return built


def check_visualizer(config: 'Config') -> None:
    """Look at the visualizer; building it would make it that of the run.

    Args:
        config (Config): of the run.

    Raises:
        InputError: names the key.
    """
    from mmengine.registry import VISBACKENDS, VISUALIZERS
    from mmengine.visualization import Visualizer

    visualizer = config.get('visualizer')
    if visualizer is None:
        return
    with naming(config, 'visualizer'):
        kind = bound(VISUALIZERS, visualizer)
        if kind.__module__.startswith(_PASSING_ON):
            known = {'type', '_scope_', *signature(Visualizer).parameters}
            known |= {*signature(kind).parameters}
            if unknown := visualizer.keys() - known:
                raise TypeError(f'unknown arguments {", ".join(unknown)}')
        name = visualizer.get('name', 'visualizer')
        if not isinstance(name, str) or not name:
            raise TypeError(f'name: expected text, got {name!r}')
        backends = visualizer.get('vis_backends')
        if backends is None:
            backends = []
        elif isinstance(backends, dict):
            backends = [backends]
        for number, backend in enumerate(backends):
            with naming(config, f'visualizer.vis_backends[{number}]'):
                kind = bound(VISBACKENDS, {'save_dir': '', **backend})
                if kind.__name__ in _PACKAGES:
                    import_module(_PACKAGES[kind.__name__])


def check_averages(
    config: 'Config', hooks: dict[str, 'Hook'], model: 'nn.Module'
) -> None:
    """Average a model once, as the hooks that do so would.

    Args:
        config (Config): of the run.
        hooks (dict[str, Hook]): from :func:`check_hooks`.
        model (nn.Module): of the run, not changed.

    Raises:
        InputError: names the hook.
    """
    from mmengine.hooks import EMAHook

    plan = config.train_cfg
    ends = {end: plan.get(end, _NO_END) for end in ('max_epochs', 'max_iters')}
    for key, hook in hooks.items():
        if isinstance(hook, EMAHook):
            with naming(config, key, 'does not fit the run'):
                hook.before_train(SimpleNamespace(**ends))
            with naming(config, key):
                hook.before_run(SimpleNamespace(model=model))


def check_monitors(
    config: 'Config', hooks: dict[str, 'Hook'], metrics: Set[str]
) -> None:
    """Make sure that what is watched is measured.

    Args:
        config (Config): of the run.
        hooks (dict[str, Hook]): from :func:`check_hooks`.
        metrics (Set[str]): that a validation gives.

    Raises:
        InputError: names the key.
    """
    from mmengine.hooks import CheckpointHook, EarlyStoppingHook

    watched = []
    for key, hook in hooks.items():
        if isinstance(hook, CheckpointHook):
            names = hook.save_best or []
            watched += [(f'{key}.save_best', name) for name in names]
        elif isinstance(hook, EarlyStoppingHook):
            watched.append((f'{key}.monitor', hook.monitor))
    schedules = config.get('param_scheduler') or []
    if isinstance(schedules, dict):
        schedules = [schedules]
    for number, settings in enumerate(schedules):
        name = settings.get('monitor', 'auto')
        watched.append((f'param_scheduler[{number}].monitor', name))
    for key, name in watched:
        if name != 'auto' and name not in metrics:
            raise InputError(
                f'config {config.filename}: {key}: expected one of the '
                f'metrics {", ".join(sorted(metrics))}, got {name}'
            )
