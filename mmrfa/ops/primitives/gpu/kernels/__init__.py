"""The Triton kernels; importing needs triton."""

from mmrfa.ops.primitives.gpu.kernels import gather, matrix, pointwise, sums
from mmrfa.ops.primitives.gpu.kernels.tiles import Kernel

BY_NAME = {
    name: value
    for module in (pointwise, gather, sums, matrix)
    for name, value in vars(module).items()
    if isinstance(value, Kernel)
}
