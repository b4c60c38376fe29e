"""RFCBAMConv: CBAM attention on receptive-field features."""

from mmrfa.ops.dispatch import Backend, operator
from mmrfa.ops.rfcbam import fused, fused_cpu, fused_triton, reference

rfcbam_conv2d = operator(
    reference.rfcbam_conv2d,
    cpu=Backend(fused_cpu.rfcbam_conv2d, fused_cpu.supports),
    triton=Backend(
        fused_triton.rfcbam_conv2d, fused_triton.supports, automatic=False
    ),
    fused=Backend(fused.rfcbam_conv2d, fused.supports),
)

__all__ = ['rfcbam_conv2d']
