"""Reading checkpoints without running code from them."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmrfa.checkpoints.old_unpickling import restricted_pickle
from mmrfa.errors import InputError

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


class ReadAhead:
    """Reads local checkpoints; what the checks of a run read, only once.

    MMEngine's own reader falls back to running the code in a file when the
    safe way fails.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict] = {}

    def keep(self, path: str) -> dict:
        """Read a file and give it out again at the next reading of it."""
        self._kept[path] = load_checkpoint_file(path)
        return self._kept[path]

    def load_from_local(self, filename: str, map_location=None) -> dict:
        """Read a file; the signature is that of MMEngine's loaders."""
        if filename in self._kept:
            return self._kept.pop(filename)
        return load_checkpoint_file(filename, map_location)


def load_safely_everywhere() -> ReadAhead:
    """Make MMEngine read local checkpoints with ``load_checkpoint_file``.

    Returns:
        ReadAhead: the reader that MMEngine uses from now on.
    """
    from mmengine.runner import CheckpointLoader

    reader = ReadAhead()
    CheckpointLoader.register_scheme('', reader.load_from_local, force=True)
    return reader


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
