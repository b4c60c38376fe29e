"""AWConv: attention with the shape of the convolution weight."""

from mmrfa.ops.aw import fused, reference
from mmrfa.ops.aw.reference import WeightAttention
from mmrfa.ops.dispatch import Form, operator

aw_conv2d = operator(
    reference.aw_conv2d,
    fused=Form(fused.aw_conv2d, fused.supports, fused.on_cpu_or_in_exports),
)

__all__ = ['WeightAttention', 'aw_conv2d']
