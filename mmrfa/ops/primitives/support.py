"""Whether the compiled kernels can run on what an operator is given."""

import torch
from torch import Tensor

from mmrfa.ops.common.norm import ConvNorm, unsupported_norm
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives import cpu, gpu


def as_autocast(x: Tensor) -> Tensor:
    """Cast the input as autocast casts that of a convolution."""
    return x.to(_computed_in(x))


def unsupported(
    x: Tensor, feature: ConvNorm, conv: Conv, window: Window
) -> str | None:
    """Why the kernels cannot run on this input, or None.

    Args:
        x (Tensor): (N, C, H, W).
        feature (ConvNorm): the features, or what stands for them.
        conv (Conv): the last convolution.
        window (Window): of the operator.
    """
    dtype = _computed_in(x)
    # Without autocast a convolution takes tensors of one dtype only; the
    # reference form says so.
    if dtype == x.dtype and not x.dtype == conv.weight.dtype == (
        feature.weight.dtype
    ):
        if not _autocasts(x):
            return (
                f'needs one dtype, got an input of {x.dtype} and weights of '
                f'{conv.weight.dtype} and {feature.weight.dtype}'
            )
    reason = unsupported_norm(feature.norm)
    if reason is not None:
        return reason
    if x.device.type == 'cpu':
        return cpu.unsupported(dtype, window)
    if x.is_cuda:
        return gpu.unsupported(dtype, window)
    return f'needs a tensor on a CPU or a CUDA GPU, got one on {x.device}'


def _autocasts(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _computed_in(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution of x would run."""
    if x.dtype != torch.float64 and _autocasts(x):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
