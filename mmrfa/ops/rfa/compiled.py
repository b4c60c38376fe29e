"""RFAConv by the compiled kernels: nothing of size C*K is kept."""

from torch import Tensor

from mmrfa.ops import primitives
from mmrfa.ops.common.autocast import as_autocast
from mmrfa.ops.common.norm import ConvNorm
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives.folding import folded_features
from mmrfa.ops.primitives.support import unsupported
from mmrfa.ops.rfa.fused import as_kernel


def supports(
    x: Tensor, gain: Tensor, feature: ConvNorm, conv: Conv, window: Window
) -> str | None:
    """None when :func:`rfa_conv2d` can run, else why not."""
    return unsupported(x, feature, conv, window)


def rfa_conv2d(
    x: Tensor,
    gain: Tensor,
    feature: ConvNorm,
    conv: Conv,
    window: Window,
) -> Tensor:
    """Compute ``reference.rfa_conv2d``, keeping only ``x`` for backward."""
    x = as_autocast(x)
    folded = folded_features(x, feature, window)
    gain = gain.view(x.size(1), -1).float()
    return primitives.rf_conv(x, folded, conv, window, gain=gain)


def unfold_supports(
    x: Tensor, attn: ConvNorm, conv: Conv, window: Window
) -> str | None:
    """None when :func:`rfa_unfold_conv2d` can run, else why not."""
    return unsupported(x, attn, conv, window)


def rfa_unfold_conv2d(
    x: Tensor, attn: ConvNorm, conv: Conv, window: Window
) -> Tensor:
    """Compute ``reference.rfa_unfold_conv2d``, keeping only ``x``."""
    x = as_autocast(x)
    folded = folded_features(x, as_kernel(attn, window), window)
    return primitives.rf_conv(x, folded, conv, window, unfold=True)
