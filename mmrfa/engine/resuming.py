"""Which checkpoint a run goes on from, and what changed since."""

import ast
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mmrfa.checkpoints.fit import check_finite, check_resumable
from mmrfa.checkpoints.mmengine_loaders import ReadAhead
from mmrfa.checkpoints.reading import (
    SETTINGS,
    begin_of_run,
    load_checkpoint_file,
)
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.optim import OptimWrapper
    from torch import nn

# What a checkpoint brings along, whatever the config says.
WITHOUT_EFFECT = (
    'optim_wrapper.optimizer.',
    'param_scheduler.',
    'randomness.',
)
# Caches of images, generators of their own, counts.
NOT_KEPT = ('CachedMosaic', 'CachedMixUp', 'Albu', 'EarlyStoppingHook')
# Optimizers whose state has shapes of its own.
OF_OTHER_SHAPES = 'Adafactor', 'LBFGS'
# Where the counts are, in all checkpoints but those of MMEngine itself.
STOPPING = 'early_stopping'
# Of ``resume``: with the newest checkpoint of the work dir; where there is
# none, the run starts, as ``load_from`` if the config says so.
AUTO = 'auto'
# What belongs to the start of a run and not to what it does.
NOT_COMPARED = ('work_dir', 'load_from', 'resume', 'launcher')


def find_whole_checkpoint(
    config: 'Config', reader: ReadAhead
) -> tuple[str | None, list[str]]:
    """Find the newest whole checkpoint of a work dir.

    Runs that began there later come first, whatever the numbers of steps.

    Args:
        config (Config): of the run; its work dir may have been moved.
        reader (ReadAhead): gives out what was read here.

    Returns:
        tuple[str | None, list[str]]: the file, None where there is no
        checkpoint at all, and why newer ones were left out.

    Raises:
        InputError: there are checkpoints, but none is whole.
    """
    skipped = []
    found = sorted(checkpoints_of(config), key=_age, reverse=True)
    for path in map(str, found):
        try:
            content = load_checkpoint_file(path)
            check_resumable(content, path)
        except InputError as error:
            skipped.append(str(error))
            continue
        reader.hold(path, content)
        return path, skipped
    if skipped:
        raise InputError(
            f'--resume: expected a whole checkpoint in {config.work_dir}, '
            f'got {len(found)} that are none ({"; ".join(skipped)}); use '
            'another --work-dir to start again'
        )
    return None, []


def inexact_parts(settings: object) -> set[str]:
    """Find what a checkpoint may not hold, of all that a run draws from.

    Args:
        settings (object): of loaders and hooks.

    Returns:
        set[str]: the types.
    """
    found = set()
    if isinstance(settings, dict):
        name = str(settings.get('type')).rpartition('.')[2]
        if name in NOT_KEPT or settings.get('use_cached'):
            found.add(name)
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        found = found.union(*map(inexact_parts, settings))
    return found


def check_optimizer_state(
    content: dict, wrapper: 'OptimWrapper', name: str
) -> None:
    """Make sure that the state of an optimizer fits the one of the run.

    Args:
        content (dict): a checkpoint that passed ``check_resumable``.
        wrapper (OptimWrapper): of the run.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: other groups of parameters, another optimizer, settings
            of other kinds, or numbers of other shapes than the parameters
            have.
    """
    optimizer = getattr(wrapper, 'optimizer', None)
    if optimizer is None:
        return
    own, found = (
        {key for group in groups for key in group if group['params']}
        for groups in (
            optimizer.param_groups,
            content['optimizer']['param_groups'],
        )
    )
    # One of another version lacks some or has more.
    if own - found and found - own:
        raise InputError(
            f'checkpoint {name}: expected the state of '
            f'{type(optimizer).__name__} with {", ".join(sorted(own - found))}'
            f', got one with {", ".join(sorted(found - own))}; to start '
            'from its weights alone use --cfg-options load_from=FILE'
        )
    own = [len(group['params']) for group in optimizer.param_groups]
    found = [len(g['params']) for g in content['optimizer']['param_groups']]
    if own != found:
        raise InputError(
            f'checkpoint {name}: expected the state of an optimizer with '
            f'{len(own)} groups of {sum(own)} parameters, got {len(found)} '
            f'of {sum(found)}'
        )
    groups = list(
        zip(optimizer.param_groups, content['optimizer']['param_groups'])
    )
    for number, (group, stored) in enumerate(groups):
        for key in group.keys() & stored.keys() - {'params'}:
            place = f'optimizer.param_groups.{number}.{key}'
            _check_like(group[key], stored[key], place, name)
    if type(optimizer).__name__ in OF_OTHER_SHAPES:
        return
    for group, stored in groups:
        for parameter, key in zip(group['params'], stored['params']):
            state = content['optimizer']['state'].get(key, {})
            _check_shapes(state, tuple(parameter.shape), key, name)


def _check_shapes(
    state: dict, shape: tuple[int, ...], key: object, name: str
) -> None:
    for what, value in state.items():
        found = tuple(getattr(value, 'shape', ()))
        if value is not None and not hasattr(value, '__float__'):
            raise InputError(
                f'checkpoint {name}: expected optimizer.state.{key}.{what} of '
                f'numbers, got {_shown(value)}'
            )
        if found not in ((), (1,), shape):
            raise InputError(
                f'checkpoint {name}: expected optimizer.state.{key}.{what} of '
                f'shape {shape}, that of its parameter, got {found}'
            )


def check_schedule_state(
    content: dict, config: 'Config', wrapper: 'OptimWrapper', name: str
) -> None:
    """Make sure that the state of schedules is that of those of the run.

    Args:
        content (dict): a checkpoint that passed ``check_resumable``.
        config (Config): of the run.
        wrapper (OptimWrapper): of the run, which is not the one that steps.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: other ones, none, or what is no state of theirs. Their
            numbers would be mixed, or begin anew.
    """
    schedules = config.get('param_scheduler') or []
    if isinstance(schedules, dict):
        schedules = [schedules]
    text = content['meta'].get(SETTINGS)
    try:
        before = _flat(text) if isinstance(text, str) else {}
    except (SyntaxError, ValueError, RecursionError):
        before = {}
    place = re.compile(r'param_scheduler(\.\d+)?\.type')
    found = [_kind(v) for k, v in before.items() if place.fullmatch(k)]
    own = [_kind(schedule['type']) for schedule in schedules]
    if before and own != found:
        raise InputError(
            f'checkpoint {name}: expected the state of the schedules of this '
            f'run, param_scheduler={own}, got that of {found}; to start '
            'from its weights alone use --cfg-options load_from=FILE'
        )
    if not hasattr(wrapper, 'optimizer'):
        return  # several, each with schedules of its own
    states = content.get('param_schedulers', [])
    if not isinstance(states, list) or len(states) != len(schedules):
        raise InputError(
            f'checkpoint {name}: expected param_schedulers, the state of the '
            f'{len(schedules)} schedules of this run, got {len(states)}; to '
            'start from its weights alone use --cfg-options load_from=FILE'
        )
    for number, (settings, state) in enumerate(zip(schedules, states)):
        _check_schedule(settings, state, number, wrapper, name)


def _check_schedule(
    settings: dict,
    state: dict,
    number: int,
    wrapper: 'OptimWrapper',
    name: str,
) -> None:
    from mmengine.registry import PARAM_SCHEDULERS

    # Where the run ends makes no difference here.
    options = dict(optimizer=wrapper, epoch_length=1)
    settings = {'end': 10**6, **settings}
    own = PARAM_SCHEDULERS.build(settings, default_args=options).state_dict()
    place = f'param_schedulers.{number}'
    if state.keys() != own.keys():
        raise InputError(
            f'checkpoint {name}: expected {place} with '
            f'{", ".join(sorted(own))}, got one with '
            f'{", ".join(sorted(map(str, state)))}'
        )
    for key, value in own.items():
        _check_like(value, state[key], f'{place}.{key}', name)
    if state['param_name'] != own['param_name']:
        raise InputError(
            f'checkpoint {name}: expected {place}.param_name '
            f'{own["param_name"]}, got {_shown(state["param_name"])}'
        )


def _check_like(own: object, found: object, place: str, name: str) -> None:
    """Numbers stay numbers, and as many of them; whatever they are."""
    if isinstance(own, bool) or own is None:
        fits = isinstance(found, bool | int | float | str | None)
        expected = 'True, False or None'
    elif isinstance(own, list | tuple) and own:
        fits = isinstance(found, list | tuple) and len(found) == len(own)
        for one, other in zip(own, found) if fits else ():
            _check_like(one, other, place, name)
        expected = f'{len(own)} entries'
    elif hasattr(own, '__float__'):
        fits = not isinstance(found, str | bytes) and _is_number(
            found, like=float(own)
        )
        expected = 'a finite number' + ' of 0 or more' * (own >= 0)
    else:
        kind = dict if isinstance(own, dict) else type(own)
        fits = isinstance(found, kind)
        expected = f'a {kind.__name__}'
    if not fits:
        raise InputError(
            f'checkpoint {name}: expected {place}, {expected}, got '
            f'{_shown(found)}'
        )


def _is_number(value: object, like: float) -> bool:
    """Infinite or negative only where another one is."""
    try:
        value = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return (math.isfinite(value) or not math.isfinite(like)) and (
        value >= 0 or like < 0
    )


def _shown(value: object) -> str:
    try:
        return ' '.join(repr(value).split())[:60]
    except ValueError:  # a number of too many digits
        return f'a strange {type(value).__name__}'


def check_average(content: dict, model: 'nn.Module', name: str) -> None:
    """Make sure that averaged weights are those of the network.

    Args:
        content (dict): a checkpoint that passed ``check_resumable``.
        model (nn.Module): the network.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: other shapes, of which MMEngine would only warn, or
            weights that are not finite.
    """
    average = content.get('ema_state_dict', {})
    tensors = {k: v for k, v in average.items() if isinstance(v, Tensor)}
    own = model.state_dict()
    for key, value in tensors.items():
        wanted = own.get(key.removeprefix('module.'), value)
        if wanted.shape != value.shape:
            raise InputError(
                f'checkpoint {name}: expected ema_state_dict.{key} of shape '
                f'{tuple(wanted.shape)}, got {tuple(value.shape)}'
            )
    check_finite(tensors, f'checkpoint {name}: ema_state_dict')


def _kind(name: object) -> str:
    return getattr(name, '__name__', str(name).strip('\'"')).split('.')[-1]


def checkpoints_of(config: 'Config') -> set[Path]:
    """Find the checkpoints of a work dir, all but the best ones.

    Args:
        config (Config): of the run.

    Returns:
        set[Path]: files, whatever is in them.
    """
    hooks = config.get('default_hooks') or {}
    out_dir = (hooks.get('checkpoint') or {}).get('out_dir')
    folders = [Path(config.work_dir)]
    if out_dir and '://' not in str(out_dir):
        folders.append(Path(out_dir) / Path(config.work_dir).name)
    paths = {
        path
        for folder in folders
        for path in folder.glob('*.pth')
        if path.is_file() and not path.name.startswith('best_')
    }
    try:
        named = (folders[0] / 'last_checkpoint').read_text().strip()
        # It may lie elsewhere; here, the name it had before a move is no use.
        if named and Path(named).name not in {path.name for path in paths}:
            paths |= {Path(named)} if os.path.isfile(named) else set()
    except (OSError, ValueError):
        pass
    return paths


def _age(path: Path) -> tuple[float, list[int], float]:
    # epoch_2 < epoch_2_iter_300 < epoch_3; times do not survive a copy.
    numbers = re.findall(r'(?:epoch|iter)_(\d+)', path.stem)
    begun = begin_of_run(path)
    return begun, [int(n) for n in numbers], path.stat().st_mtime


def changes(before: str, now: str) -> list[str]:
    """List the settings that changed since a checkpoint.

    Args:
        before (str): the settings in the checkpoint, as MMEngine writes
            them. They are not run.
        now (str): those of the run that goes on.

    Returns:
        list[str]: a line for each.
    """
    try:
        old, new = _flat(before), _flat(now)
    except (SyntaxError, ValueError, RecursionError):
        return ['the settings in the checkpoint cannot be compared']
    lines = []
    for key in sorted(old.keys() | new.keys()):
        was, is_now = old.get(key, 'nothing'), new.get(key, 'nothing')
        if was == is_now or key.partition('.')[0] in NOT_COMPARED:
            continue
        line = f'{key}: {was} became {is_now}'
        if key.startswith(WITHOUT_EFFECT):
            line += ', without effect: the checkpoint brings its own'
        lines.append(line)
    return lines


def _flat(text: str) -> dict[str, str]:
    """Assignments of literals, calls of dict and lists, by dotted key."""
    flat = {}

    def walk(node: ast.AST, key: str) -> None:
        if isinstance(node, ast.Call):
            children = {k.arg: k.value for k in node.keywords}
        elif isinstance(node, ast.Dict):
            keys = [k and ast.unparse(k).strip('\'"') for k in node.keys]
            children = dict(zip(keys, node.values))
        elif isinstance(node, ast.List | ast.Tuple) and any(
            isinstance(item, ast.Call | ast.Dict | ast.List)
            for item in node.elts
        ):
            children = dict(enumerate(node.elts))
        else:
            flat[key] = ast.unparse(node)
            return
        for name, child in children.items():
            walk(child, f'{key}.{name}')

    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign):
            walk(statement.value, ast.unparse(statement.targets[0]))
    return flat
