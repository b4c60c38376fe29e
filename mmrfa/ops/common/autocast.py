"""What autocast makes of the input of a convolution."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Older torch (seen: 2.1) asks each device by a function of its own.
_ASKS_BY_NAME = hasattr(torch, 'get_autocast_dtype')


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of x."""
    if x.is_meta:  # torch refuses the question for a device without it
        return False
    if _ASKS_BY_NAME:
        return torch.is_autocast_enabled(x.device.type)
    if x.device.type == 'cpu':
        return torch.is_autocast_cpu_enabled()
    return torch.is_autocast_enabled()


def computed_in(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution of x runs."""
    if x.dtype == torch.float64 or not autocasts(x):
        return x.dtype
    if _ASKS_BY_NAME:
        return torch.get_autocast_dtype(x.device.type)
    if x.device.type == 'cpu':
        return torch.get_autocast_cpu_dtype()
    return torch.get_autocast_gpu_dtype()


def as_autocast(x: Tensor) -> Tensor:
    """Cast the input as autocast casts that of a convolution."""
    return x.to(computed_in(x))


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Where operands on the device of x keep their precision."""
    if not autocasts(x):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)
