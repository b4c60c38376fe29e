"""Whether the compiled kernels can run on what an operator is given."""

import torch
from torch import Tensor

from mmrfa.ops.common.autocast import autocasts, computed_in
from mmrfa.ops.common.norm import ConvNorm, unsupported_norm
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.tracing import is_exporting
from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives import cpu, gpu
from mmrfa.ops.primitives.define import unavailable


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
    if unavailable():  # first: such a torch cannot be asked about autocast
        return unavailable()
    dtype = computed_in(x)
    weights = {conv.weight.dtype, feature.weight.dtype}
    # A convolution takes one dtype; the reference form says so.
    if weights != {x.dtype} and not autocasts(x):
        return f'needs weights of the dtype of the input, {x.dtype}'
    if conv.weight.dtype not in (dtype, torch.float32):
        return f'needs weights of float32 or {dtype}, got {conv.weight.dtype}'
    reason = unsupported_norm(feature.norm)
    if reason is not None:
        return reason
    if x.is_cuda or gpu.simulated:
        return gpu.unsupported(dtype, window)
    if x.device.type == 'cpu':
        return cpu.unsupported(dtype, window)
    return f'needs a tensor on a CPU or a CUDA GPU, got one on {x.device}'


def automatic(x: Tensor) -> str | None:
    """Why the kernels are not taken where nothing was named, or None."""
    if is_exporting():
        return 'an exported program holds it only where it is named'
    if x.is_cuda:
        return 'on GPUs it is far from tuned, name it to use it'
    return None
