"""Reading checkpoints without running code from them."""

import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from mmrfa.checkpoints.formats import (
    Location,
    read_checkpoint,
    read_outline,
    read_pickle,
)
from mmrfa.checkpoints.unpickling import Refused
from mmrfa.errors import InputError

TRUST = 'MMRFA_TRUST_CHECKPOINT'
# Where the text of the settings stands once MMEngine cannot run it.
SETTINGS = 'settings_text'
# Where, among what MMEngine's message hub holds, the time a run began stands.
BEGUN = 'run_begun'


def is_trusted() -> bool:
    """Whether the user lets files run code."""
    return os.environ.get(TRUST) == '1'


def load_checkpoint_file(
    path: str | Path, map_location: Location = 'cpu'
) -> dict:
    """Load a local checkpoint; no code in it is run.

    It may hold tensors, plain values, and what MMEngine adds to them
    (settings, the log history, arrays of numbers). The settings are a
    program that MMEngine runs when it resumes or builds a model from a
    checkpoint alone, so their text is moved to ``meta['settings_text']``,
    where nothing looks for it. Whoever sets the environment variable
    ``MMRFA_TRUST_CHECKPOINT=1`` loads whatever is in the file, and runs
    whatever code is in it.

    Args:
        path (str | Path): file written by ``torch.save``.
        map_location (str | device | dict | Callable | None): where the
            tensors go, as in ``torch.load``; None is the CPU. Defaults to
            'cpu'.

    Returns:
        dict: what the file holds.

    Raises:
        InputError: no such file, a truncated, damaged or foreign file, a
            file that needs code to be run, or content that is not a dict.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f'checkpoint {path}: expected a file, found none')
    with path.open('rb') as file:
        return load_checkpoint(file, str(path), map_location)


def load_checkpoint(
    file: BinaryIO, name: str, map_location: Location = 'cpu'
) -> dict:
    """Load a checkpoint from an open file, as :func:`load_checkpoint_file`.

    Args:
        file (BinaryIO): the whole checkpoint, at its start.
        name (str): for the error message.
        map_location (str | device | dict | Callable | None): where the
            tensors go. Defaults to 'cpu'.

    Returns:
        dict: what the file holds.

    Raises:
        InputError: as there.
    """

    def read() -> object:
        if is_trusted():
            return torch.load(file, map_location, weights_only=False)
        return read_checkpoint(file, map_location)

    expected = 'expected a file written by torch.save'
    content = _read(read, f'checkpoint {name}', expected)
    if not isinstance(content, dict):
        raise InputError(
            f'checkpoint {name}: expected a dict, got {type(content).__name__}'
        )
    return content if is_trusted() else _without_programs(content)


def begin_of_run(path: str | Path) -> float:
    """Read when the run of a checkpoint began.

    Going on with ``--resume`` is no begin, from a named file it is.

    Args:
        path (str | Path): the file; its weights are not read.

    Returns:
        float: seconds since 1970, 0 where the file does not tell, as those
        of MMEngine, and infinity where it cannot be read.
    """
    try:
        with Path(path).open('rb') as file:
            if is_trusted():
                content = torch.load(file, 'meta', weights_only=False)
            else:
                content = read_outline(file)
    except Exception:  # foreign bytes make unpickling raise anything
        return math.inf
    try:
        begun = content['message_hub']['runtime_info'].get(BEGUN, 0)
    except (KeyError, TypeError, AttributeError):
        return 0.0
    number = isinstance(begun, int | float) and not math.isnan(begun)
    return float(begun) if number else 0.0


def load_predictions(path: str | Path) -> object:
    """Load what ``tools/test.py --out`` wrote; no code in it is run.

    Args:
        path (str | Path): the file, a pickle.

    Returns:
        object: what it holds; ``MMRFA_TRUST_CHECKPOINT=1`` lets it be
        anything.

    Raises:
        InputError: no such file, another one, or one that needs code.
    """

    def read() -> object:
        if is_trusted():
            return pickle.loads(Path(path).read_bytes())
        return read_pickle(path)

    expected = 'expected a file of tools/test.py --out'
    if not Path(path).is_file():
        raise InputError(f'predictions {path}: {expected}, found none')
    return _read(read, f'predictions {path}', expected)


def _read(read: Callable[[], object], name: str, expected: str) -> object:
    try:
        return read()
    except (PermissionError, torch.cuda.OutOfMemoryError):
        raise
    except Refused as error:
        raise InputError(
            f'{name}: expected tensors and plain values only, refused to run '
            f'{error} from it; if you trust its maker, allow that with '
            f'--trust-checkpoint or {TRUST}=1'
        ) from error
    except Exception as error:  # foreign bytes make unpickling raise anything
        raise InputError(
            f'{name}: {expected}, got one that is '
            f'truncated, damaged or of another kind ({_short(error)})'
        ) from error


def _short(error: Exception) -> str:
    text = ' '.join(str(error).split())[:120]
    known = isinstance(error, pickle.UnpicklingError)
    return text if known else f'{type(error).__name__}: {text}'


def _without_programs(content: dict) -> dict:
    """Move the text of settings out of the sight of MMEngine."""
    meta, hub = content.get('meta'), content.get('message_hub')
    if isinstance(meta, dict):
        meta.pop('config', None)
        text = meta.pop('cfg', None)
        if isinstance(text, str):
            meta[SETTINGS] = text
    if isinstance(hub, dict) and isinstance(hub.get('runtime_info'), dict):
        hub['runtime_info'].pop('cfg', None)
    return content


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
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not state:
        raise InputError(f'checkpoint {name}: expected tensors, found none')
    return state
