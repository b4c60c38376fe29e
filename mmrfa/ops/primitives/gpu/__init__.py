"""The kernels of the primitives for CUDA GPUs, in Triton.

Registered under torch's dispatcher, where triton and torch are new enough.
Triton itself is imported when the first kernel runs.
"""

import torch

from mmrfa.ops.primitives.gpu import conv, moments, pools
from mmrfa.ops.primitives.gpu.launch import interpreted
from mmrfa.ops.primitives.gpu.rules import unavailable, unsupported

__all__ = [
    'interpreted',
    'register',
    'simulated',
    'unavailable',
    'unsupported',
]

# Whether the CPU runs these kernels: ``mmrfa.testing.simulated_gpu``.
simulated = False


def register(device: str) -> torch.library.Library:
    """Let torch's dispatcher find the kernels.

    Args:
        device (str): dispatch key, ``'CUDA'`` or, to simulate them, ``'CPU'``.

    Returns:
        torch.library.Library: the kernels are there as long as it is.
    """
    library = torch.library.Library('mmrfa', 'IMPL')
    for module in (conv, moments, pools):
        for name, run in vars(module).items():
            if name.startswith('rf_'):
                library.impl(name, run, device)
    return library


if unavailable() is None:
    _library = register('CUDA')
