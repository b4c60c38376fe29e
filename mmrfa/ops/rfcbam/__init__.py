"""RFCBAMConv: CBAM attention on receptive-field features."""

from mmrfa.ops.dispatch import Form, operator
from mmrfa.ops.primitives.support import automatic
from mmrfa.ops.rfcbam import compiled, fused, reference
from mmrfa.ops.rfcbam.reference import CBAMGates

rfcbam_conv2d = operator(
    reference.rfcbam_conv2d,
    fused=Form(fused.rfcbam_conv2d, fused.supports),
    compiled=Form(compiled.rfcbam_conv2d, compiled.supports, automatic),
)

__all__ = ['CBAMGates', 'rfcbam_conv2d']
