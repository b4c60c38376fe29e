"""RFAConv: receptive-field attention convolution."""

from mmrfa.ops.dispatch import Form, operator
from mmrfa.ops.primitives.support import automatic
from mmrfa.ops.rfa import compiled, fused, reference

rfa_conv2d = operator(
    reference.rfa_conv2d,
    fused=Form(fused.rfa_conv2d, fused.supports),
    compiled=Form(compiled.rfa_conv2d, compiled.supports, automatic),
)
rfa_unfold_conv2d = operator(
    reference.rfa_unfold_conv2d,
    fused=Form(fused.rfa_unfold_conv2d, fused.unfold_supports),
    compiled=Form(
        compiled.rfa_unfold_conv2d, compiled.unfold_supports, automatic
    ),
)

__all__ = ['rfa_conv2d', 'rfa_unfold_conv2d']
