"""The Triton kernels; importing needs triton."""

from mmrfa.ops.primitives.gpu.kernels.gather import input_gradient
from mmrfa.ops.primitives.gpu.kernels.matrix import (
    conv,
    conv_input,
    conv_weight,
)
from mmrfa.ops.primitives.gpu.kernels.parts import INTERPRETED
from mmrfa.ops.primitives.gpu.kernels.pointwise import (
    features,
    features_backward,
    unfold_backward,
)
from mmrfa.ops.primitives.gpu.kernels.sums import outer_sums

__all__ = [
    'INTERPRETED',
    'conv',
    'conv_input',
    'conv_weight',
    'features',
    'features_backward',
    'input_gradient',
    'outer_sums',
    'unfold_backward',
]
