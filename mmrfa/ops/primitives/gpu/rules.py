"""What the Triton kernels can run on, and why not on the rest."""

from collections.abc import Sequence
from importlib import metadata

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives import define

OLDEST = (3, 6)  # that the tests have run with
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LEARNED = (torch.float32, torch.float64)  # the weight and shift of features
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
    **others: tuple[Tensor | None, Sequence[int]]
    | tuple[Tensor | None, Sequence[int], Sequence[torch.dtype]],
) -> None:
    """Refuse what the kernels, which know addresses alone, would misread.

    Args:
        x (Tensor): (N, C, H, W).
        window (Window): of the operator.
        **others (tuple): further tensors by name, with the shape that each
            must have, and its dtypes if not float32 alone; None passes.

    Raises:
        RuntimeError: names what is wrong, expected and got.
    """
    require(x.dim() == 4, 'x of shape (N, C, H, W)', tuple(x.shape))
    sides = tuple(window.kernel_size)
    require(len(sides) == 2, 'a kernel of two dimensions', sides)
    reason = unsupported(x.dtype, window)
    if reason is not None:
        raise RuntimeError(f'mmrfa: kernel for GPUs {reason}')
    _, stride, padding, dilation = window
    require(min(stride) > 0, 'stride to be two numbers from 1', stride)
    require(min(padding) >= 0, 'padding to be two numbers from 0', padding)
    require(min(dilation) > 0, 'dilation to be two numbers from 1', dilation)
    require(
        min(window.out_size(x)) > 0 and x.size(1) > 0,
        'x with channels and at least as large as the dilated kernel',
        tuple(x.shape),
    )
    for name, (tensor, shape, *dtypes) in others.items():
        if tensor is None:
            continue
        shape = tuple(shape)
        got = tuple(tensor.shape)
        require(got == shape, f'{name} of shape {shape}', got)
        kinds = dtypes[0] if dtypes else [torch.float32]
        require(
            tensor.dtype in kinds and tensor.device == x.device,
            f'{name} to be {" or ".join(map(str, kinds))} on {x.device}',
            f'{tensor.dtype} on {tensor.device}',
        )


def require(fulfilled: bool, what: str, got: object) -> None:
    """Raise a RuntimeError unless something is as expected."""
    if not fulfilled:
        raise RuntimeError(f'mmrfa: expected {what}, got {got}')
