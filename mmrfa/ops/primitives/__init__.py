"""The compiled operators, each defined once: schema, plain form, gradients.

Torch's dispatcher picks the kernel by device: C++ for the CPU, Triton for
CUDA, the plain form elsewhere.
"""

from mmrfa.ops.primitives import define, flops
from mmrfa.ops.primitives.rf_channel_pool import rf_channel_pool
from mmrfa.ops.primitives.rf_conv import LineGates, PositionGates, rf_conv
from mmrfa.ops.primitives.rf_line_pool import rf_line_pool
from mmrfa.ops.primitives.rf_moments import rf_moments

if define.unavailable() is None:
    flops.register()

__all__ = [
    'LineGates',
    'PositionGates',
    'rf_channel_pool',
    'rf_conv',
    'rf_line_pool',
    'rf_moments',
]
