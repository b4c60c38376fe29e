"""RFCAConv: coordinate attention on receptive-field features."""

from mmrfa.ops.dispatch import Backend, operator
from mmrfa.ops.rfca import fused, fused_cpu, fused_triton, reference

rfca_conv2d = operator(
    reference.rfca_conv2d,
    cpu=Backend(fused_cpu.rfca_conv2d, fused_cpu.supports),
    triton=Backend(
        fused_triton.rfca_conv2d, fused_triton.supports, automatic=False
    ),
    fused=Backend(fused.rfca_conv2d, fused.supports),
)

__all__ = ['rfca_conv2d']
