"""Reading checkpoints without running code from them."""

import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.utils.old_unpickling import restricted_pickle

TRUST = 'MMRFA_TRUST_CHECKPOINT'
# Whether it can be told what to allow: since 2.6.
TORCH_HAS_LISTS = hasattr(
    torch.serialization, 'get_unsafe_globals_in_checkpoint'
)


def load_checkpoint_file(
    path: str | Path, map_location: str | torch.device | Callable = 'cpu'
) -> dict:
    """Load a local checkpoint with ``weights_only=True``.

    What MMEngine adds to the tensors (settings, the log history, NumPy
    numbers) is let through as well. Whoever sets the environment variable
    ``MMRFA_TRUST_CHECKPOINT=1`` loads whatever is in the file, and runs
    whatever code is in it.

    Args:
        path (str | Path): file written by ``torch.save``.
        map_location (str | device | Callable): where the tensors go, as in
            ``torch.load``. Defaults to 'cpu'.

    Returns:
        dict: what the file holds.

    Raises:
        InputError: no such file, a truncated or foreign file, a file that
            needs code to be run, or content that is not a dict.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f'checkpoint {path}: expected a file, found none')
    trusted = os.environ.get(TRUST) == '1'
    try:
        if trusted:
            content = torch.load(path, map_location, weights_only=False)
        else:
            content = _load_safely(path, map_location)
    except (PermissionError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # foreign bytes make unpickling raise anything
        code = re.search(r'GLOBAL (\S+)', str(error))
        if code:
            raise InputError(
                f'checkpoint {path}: expected tensors and plain values only, '
                f'refused to run {code[1]} from it; if you trust its maker, '
                f'allow that with --trust-checkpoint or {TRUST}=1'
            ) from error
        raise InputError(
            f'checkpoint {path}: expected a file written by torch.save, got '
            'one that is truncated or of another kind'
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f'checkpoint {path}: expected a dict, got {type(content).__name__}'
        )
    return content


def _load_safely(path: Path, map_location) -> object:
    allowed = _mmengine_globals()
    if not TORCH_HAS_LISTS:
        pickle = restricted_pickle(allowed)
        return torch.load(path, map_location, pickle, weights_only=False)
    pairs = [(value, name) for name, value in allowed.items()]
    with torch.serialization.safe_globals(pairs):
        return torch.load(path, map_location, weights_only=True)


def _mmengine_globals() -> dict[str, object]:
    """What MMEngine's own checkpoints hold besides tensors, by name."""
    kinds = (np.dtype(scalar) for scalar in np.sctypeDict.values())
    classes = {type(kind) for kind in kinds if kind.kind in 'biufcSU'}
    # NumPy writes the content of an empty array as a call of bytes.
    classes |= {np.ndarray, np.dtype, slice, bytes}
    allowed = {f'{kind.__module__}.{kind.__name__}': kind for kind in classes}
    # How NumPy writes arrays and numbers. It renamed its core package in
    # 2.0; files hold either name.
    for value in np.zeros(1), np.float64(0):
        function = value.__reduce__()[0]
        for package in ('numpy.core', 'numpy._core'):
            allowed[f'{package}.multiarray.{function.__name__}'] = function
    try:
        from mmengine.logging import HistoryBuffer
    except ImportError:
        return allowed

    def method_of(owner: type, name: str) -> Callable:
        # A history refers to its own methods through getattr. Getattr as
        # such would hand the file a way to everything.
        if owner is not HistoryBuffer or name.startswith('_'):
            raise ValueError('GLOBAL builtins.getattr')
        return getattr(owner, name)

    name = f'{HistoryBuffer.__module__}.{HistoryBuffer.__name__}'
    return allowed | {name: HistoryBuffer, 'builtins.getattr': method_of}


def load_safely_everywhere() -> None:
    """Make MMEngine read local checkpoints with `load_checkpoint_file`.

    MMEngine's own reader falls back to running the code in a file when the
    safe way fails.
    """
    from mmengine.runner import CheckpointLoader

    def load_from_local(filename: str, map_location=None) -> dict:
        return load_checkpoint_file(filename, map_location)

    CheckpointLoader.register_scheme('', load_from_local, force=True)


def check_fits(content: dict, model: nn.Module, name: str) -> None:
    """Make sure that a checkpoint fills a network exactly.

    Args:
        content (dict): a state dict, or a dict with one as ``state_dict``,
            the two forms that MMEngine's Runner reads.
        model (nn.Module): the network; its parameters are overwritten.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: missing, unexpected or other-shaped parameters; the
            message counts them and names the first of each.
    """
    found = content.get('state_dict', content)
    state = OrderedDict(
        (re.sub(r'^module\.', '', key), value) for key, value in found.items()
    )
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


def check_resumable(content: dict, name: str) -> None:
    """Make sure that a checkpoint holds the state of a training run.

    Args:
        content (dict): what the file holds.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: it holds weights only.
    """
    needed = ('state_dict', 'meta', 'message_hub', 'optimizer')
    lacking = [key for key in needed if key not in content]
    if lacking:
        raise InputError(
            f'checkpoint {name}: expected the state of a training run to '
            f'resume, it lacks {", ".join(lacking)}; to start from its '
            'weights alone use --cfg-options load_from=FILE'
        )


def state_dict_of(content: dict, name: str) -> dict[str, Tensor]:
    """Take the parameters out of what a checkpoint holds.

    Args:
        content (dict): a state dict, or a dict that holds one under
            ``state_dict``, ``model_state_dict`` or ``model``.
        name (str): for the error message.

    Returns:
        dict[str, Tensor]: names without a leading ``module.``.

    Raises:
        InputError: no tensors in it.
    """
    for key in ('state_dict', 'model_state_dict', 'model'):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state = {
        key.removeprefix('module.'): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }
    if not state:
        raise InputError(f'checkpoint {name}: expected tensors, found none')
    return state
