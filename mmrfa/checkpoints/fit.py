"""Whether a checkpoint fits a network, and a run that goes on."""

import math
import re
from collections import OrderedDict

from torch import Tensor, nn

from mmrfa.checkpoints.names import current_names
from mmrfa.errors import InputError


def check_fits(content: dict, model: nn.Module, name: str) -> None:
    """Make sure that a checkpoint fills a network exactly.

    Args:
        content (dict): a state dict, or a dict with one as ``state_dict``,
            the two forms that MMEngine's Runner reads.
        model (nn.Module): the network; its parameters are overwritten.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: missing, unexpected or other-shaped parameters; the
            message counts them and names the first of each. Or weights that
            are not finite.
    """
    found = state_dict_in(content, name)
    state = OrderedDict(_names_of(found, model))
    # Versions, by which modules bring old names up to date as they load.
    state._metadata = getattr(found, '_metadata', OrderedDict())
    own = model.state_dict()
    reshaped = [
        key
        for key, value in state.items()
        if key in own and own[key].shape != getattr(value, 'shape', None)
    ]
    examples = [
        f'{key}, {tuple(getattr(state.pop(key), "shape", ()))} instead of '
        f'{tuple(own[key].shape)}'
        for key in reshaped
    ]
    result = model.load_state_dict(state, strict=False)
    missing = [
        key
        for key in result.missing_keys
        if key not in reshaped and not key.endswith('num_batches_tracked')
    ]
    wrong = [
        f'{len(names)} {kind} (first: {names[0]})'
        for kind, names in (
            ('missing', missing),
            ('unexpected', result.unexpected_keys),
            ('of another shape', examples),
        )
        if names
    ]
    if wrong:
        raise InputError(
            f'checkpoint {name}: expected the {len(own)} tensors of this '
            f'{type(model).__name__}, got {", ".join(wrong)}'
        )
    check_finite(state, f'checkpoint {name}')


def check_fits_somewhere(content: dict, model: nn.Module, name: str) -> None:
    """Make sure that a checkpoint to start from fills anything at all.

    Args:
        content (dict): as for :func:`check_fits`.
        model (nn.Module): the network; not changed.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: no tensor of it has the name and the shape of one of the
            network, or one that has is not finite.
    """
    state = _names_of(state_dict_in(content, name), model)
    own = model.state_dict()
    fits = {
        key: value
        for key, value in state.items()
        if key in own and own[key].shape == value.shape
    }
    if not fits:
        raise InputError(
            f'load_from {name}: expected tensors of this '
            f'{type(model).__name__}, got none of its names and shapes '
            f'(first: {next(iter(state), None)!r} instead of '
            f'{next(iter(own))!r})'
        )
    check_finite(fits, f'checkpoint {name}')


def _names_of(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    state = {re.sub(r'^module\.', '', k): v for k, v in state.items()}
    return current_names(state, model)


def check_finite(state: dict[str, Tensor], name: str) -> None:
    """Make sure that weights are numbers.

    Args:
        state (dict[str, Tensor]): parameters and buffers by name.
        name (str): where they are, for the error message.

    Raises:
        InputError: there is an infinity or a NaN.
    """
    bad = [
        key
        for key, value in state.items()
        if (value.is_floating_point() or value.is_complex())
        and not value.isfinite().all()
    ]
    if bad:
        raise InputError(
            f'{name}: expected finite weights, got NaN or infinity in '
            f'{len(bad)} of {len(state)} tensors (first: {bad[0]})'
        )


def check_resumable(content: dict, name: str) -> None:
    """Make sure that a checkpoint holds the state of a training run.

    Args:
        content (dict): what the file holds.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: it holds weights only, weights that are not finite, or
            something else where the state should be.
    """
    lacking = [key for key in _STATE if key not in content]
    if lacking:
        raise InputError(
            f'checkpoint {name}: expected the state of a training run to '
            f'resume, it lacks {", ".join(lacking)}; to start from its '
            'weights alone use --cfg-options load_from=FILE'
        )
    for key, (inner, kind) in _STATE.items():
        value = content[key]
        if not isinstance(value, dict) or not all(
            isinstance(value.get(entry), kind) for entry in inner
        ):
            raise InputError(
                f'checkpoint {name}: expected {key} of a training run, a '
                f'dict with {", ".join(inner) or "tensors"}, got '
                f'{_kind(value)}'
            )
    for key, (kind, inner) in _MORE.items():
        value = content.get(key, {} if kind is dict else [])
        items = value.values() if isinstance(value, dict) else value
        if not isinstance(value, kind) or not all(
            isinstance(item, inner) for item in items
        ):
            raise InputError(
                f'checkpoint {name}: expected {key} of a training run, got '
                f'{_kind(value)}'
            )
    check_finite(state_dict_in(content, name), f'checkpoint {name}')
    groups = content['optimizer']['param_groups']
    if not all(
        isinstance(group, dict)
        and isinstance(group.get('params'), list)
        and all(type(number) is int for number in group['params'])
        for group in groups
    ):
        raise InputError(
            f'checkpoint {name}: expected optimizer.param_groups with params, '
            'lists of numbers'
        )
    states = content['optimizer']['state']
    if not isinstance(states, dict) or not all(
        isinstance(state, dict) for state in states.values()
    ):
        raise InputError(
            f'checkpoint {name}: expected optimizer.state, a dict for each '
            'parameter'
        )
    _check_numbers(content, name)


def _check_numbers(content: dict, name: str) -> None:
    """What a run would count on, compute with or make names of files of."""
    meta, info = content['meta'], content['message_hub']['runtime_info']
    seed, kept = meta.get('seed'), info.get('keep_ckpt_ids', [])
    groups = content['optimizer']['param_groups']
    numbers = [v for k, v in info.items() if k.startswith('best_score')]
    numbers += [group[k] for group in groups for k in group if k == 'lr']
    best = [v for k, v in info.items() if k.startswith('best_ckpt')]
    stops = content.get('early_stopping', [])
    sizes = content.get('batch_sizes', {}).values()
    wanted = {
        'meta.epoch and meta.iter of 0 or more': all(
            type(meta[key]) is int and meta[key] >= 0
            for key in ('epoch', 'iter')
        ),
        'meta.seed of 32 bits': seed is None
        or (type(seed) is int and 0 <= seed < 2**32),
        'message_hub.runtime_info.keep_ckpt_ids of whole numbers': (
            isinstance(kept, list) and all(type(step) is int for step in kept)
        ),
        'message_hub.runtime_info.best_ckpt, a file': all(
            isinstance(path, str | None) for path in best
        ),
        'message_hub.resumed_keys that are True or False': all(
            isinstance(value, bool)
            for value in content['message_hub']['resumed_keys'].values()
        ),
        'early_stopping of numbers': all(
            type(number) in (int, float)
            for stop in stops
            for number in stop.values()
        ),
        'batch_sizes of two whole numbers above 0, or a mode': all(
            isinstance(size, str | None) or _is_size(size)
            for drawn in sizes
            for size in drawn.values()
        ),
        'best_score and lr that are finite numbers': all(
            is_finite_number(number) for number in numbers
        ),
    }
    for expected, holds in wanted.items():
        if not holds:
            raise InputError(f'checkpoint {name}: expected {expected}')
    state = {
        f'{number}.{key}': value
        for number, values in content['optimizer']['state'].items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
    check_finite(state, f'checkpoint {name}: optimizer.state')


def is_finite_number(value: object) -> bool:
    """Whether something from a file is one number that can be computed with.

    Args:
        value (object): a tensor or an array of one entry will do.
    """
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False


def _is_size(value: object) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(type(side) is int and side > 0 for side in value)
    )


def state_dict_in(content: dict, name: str) -> dict[str, Tensor]:
    """Take the weights out of a checkpoint, as MMEngine's Runner does.

    Args:
        content (dict): a state dict, or a dict with one as ``state_dict``.
        name (str): of the checkpoint, for the error message.

    Returns:
        dict[str, Tensor]: parameters and buffers by name.

    Raises:
        InputError: they are something else.
    """
    state = content.get('state_dict', content)
    if not isinstance(state, dict):
        raise InputError(
            f'checkpoint {name}: expected a state_dict of tensors by name, '
            f'got {_kind(state)}'
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(
                f'checkpoint {name}: expected a state_dict of tensors by '
                f'name, got {_kind(value)} for {key!r:.60}'
            )
    return state


# What a training run needs: the entries of each part, and their kinds.
_STATE = dict(
    state_dict=((), object),
    meta=(('epoch', 'iter'), int),
    message_hub=(('log_scalars', 'runtime_info', 'resumed_keys'), dict),
    optimizer=(('state', 'param_groups'), dict | list),
)
# What it may have beside them: kinds of the whole and of its entries.
_MORE = dict(
    param_schedulers=(list | dict, dict | list),
    early_stopping=(list, dict),
    batch_sizes=(dict, dict),
    ema_state_dict=(dict, Tensor | dict | list),
)


def _kind(value: object) -> str:
    name = type(value).__name__
    if isinstance(value, dict):
        name += f' with {", ".join(map(repr, list(value)[:3]))}'
    return name
