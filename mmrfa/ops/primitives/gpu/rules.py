"""What the Triton kernels can run on, and why not on the rest."""

from collections.abc import Sequence
from importlib import metadata

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives import define

OLDEST = (3, 7)  # that the tests have run with
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LONGEST = 7  # kernel side: the loops over taps are unrolled


def _old_triton() -> str | None:
    # Without importing it, which takes as long as all of this package.
    try:
        found = metadata.version('triton')
    except metadata.PackageNotFoundError:
        return 'triton is not installed; pip install triton'
    if tuple(map(int, found.split('.')[:2])) < OLDEST:
        oldest = '.'.join(map(str, OLDEST))
        return f'needs triton {oldest} or newer, got {found}'
    return None


_REASON = define.unavailable() or _old_triton()


def unavailable() -> str | None:
    """Why no kernel can be used in this environment, or None."""
    return _REASON


def unsupported(dtype: torch.dtype, window: Window) -> str | None:
    """Why the kernels cannot take such an input, or None.

    Args:
        dtype (torch.dtype): in which the operator is computed.
        window (Window): of the operator.
    """
    if _REASON is not None:
        return _REASON
    if dtype not in DTYPES:
        return f'needs float32, float16 or bfloat16, got {dtype}'
    height, width = window.kernel_size
    if max(height, width) > LONGEST:
        return (
            f'needs a kernel of at most {LONGEST}x{LONGEST}, got '
            f'{height}x{width}'
        )
    return None


def check(
    x: Tensor,
    window: Window,
    **others: tuple[Tensor | None, Sequence[int], torch.dtype],
) -> None:
    """Refuse what the kernels would misread.

    Args:
        x (Tensor): (N, C, H, W).
        window (Window): of the operator.
        **others (tuple): further tensors by name, with the shape and dtype
            that each must have; None passes.

    Raises:
        RuntimeError: names what is wrong, expected and got.
    """
    if x.dim() != 4:
        raise RuntimeError(f'x: expected (N, C, H, W), got {tuple(x.shape)}')
    reason = unsupported(x.dtype, window)
    if reason is not None:
        raise RuntimeError(f'kernels for GPUs: {reason}')
    for name, (tensor, shape, dtype) in others.items():
        if tensor is None:
            continue
        wanted = tuple(shape), dtype, x.device
        found = tuple(tensor.shape), tensor.dtype, tensor.device
        if wanted != found:
            raise RuntimeError(
                f'{name}: expected {" ".join(map(str, wanted))}, '
                f'got {" ".join(map(str, found))}'
            )
