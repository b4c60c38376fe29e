"""Reading checkpoints without running code from them."""

import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from mmrfa.errors import InputError


def _mmengine_globals() -> AbstractContextManager:
    """Allow what MMEngine's own checkpoints hold besides tensors.

    The maintained fork lists it; the originals (and torch before 2.5) cannot
    say, so there only plain checkpoints load.
    """
    try:
        from mmengine.runner.checkpoint import get_torch_safe_globals
        from torch.serialization import safe_globals
    except ImportError:
        return nullcontext()
    return safe_globals(get_torch_safe_globals())


def load_checkpoint_file(path: str | Path) -> dict:
    """Load a local checkpoint with ``weights_only=True``.

    Args:
        path (str | Path): file written by ``torch.save``.

    Returns:
        dict: what the file holds, tensors on the CPU.

    Raises:
        InputError: no such file, a truncated or foreign file, a file that
            needs code to be run, or content that is not a dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'checkpoint {path}: expected a file, found none')
    try:
        with _mmengine_globals():
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # foreign bytes make unpickling raise anything
        code = re.search(r'GLOBAL (\S+)', str(error))
        if code:
            raise InputError(
                f'checkpoint {path}: expected tensors and plain values only, '
                f'refused to run {code[1]} from it'
            ) from None
        raise InputError(
            f'checkpoint {path}: expected a file written by torch.save, got '
            'one that is truncated or of another kind'
        ) from None
    if not isinstance(content, dict):
        raise InputError(
            f'checkpoint {path}: expected a dict, got {type(content).__name__}'
        )
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
        if isinstance(value, Tensor)
    }
    if not state:
        raise InputError(f'checkpoint {name}: expected tensors, found none')
    return state
