"""RFCAConv: coordinate attention on receptive-field features."""

from mmrfa.ops.dispatch import Form, operator
from mmrfa.ops.primitives.support import automatic
from mmrfa.ops.rfca import compiled, fused, reference

rfca_conv2d = operator(
    reference.rfca_conv2d,
    fused=Form(fused.rfca_conv2d, fused.supports),
    compiled=Form(compiled.rfca_conv2d, compiled.supports, automatic),
)

__all__ = ['rfca_conv2d']
