"""RFAConv: receptive-field attention convolution."""

from mmrfa.ops.dispatch import Backend, operator
from mmrfa.ops.rfa import fused, fused_cpu, fused_triton, reference

rfa_conv2d = operator(
    reference.rfa_conv2d,
    cpu=Backend(fused_cpu.rfa_conv2d, fused_cpu.supports),
    triton=Backend(
        fused_triton.rfa_conv2d, fused_triton.supports, automatic=False
    ),
    fused=Backend(fused.rfa_conv2d, fused.supports),
)
rfa_unfold_conv2d = operator(
    reference.rfa_unfold_conv2d,
    cpu=Backend(fused_cpu.rfa_unfold_conv2d, fused_cpu.unfold_supports),
    triton=Backend(
        fused_triton.rfa_unfold_conv2d,
        fused_triton.unfold_supports,
        automatic=False,
    ),
    fused=Backend(fused.rfa_unfold_conv2d, fused.unfold_supports),
)

__all__ = ['rfa_conv2d', 'rfa_unfold_conv2d']
