"""RFAConv by Triton kernels: features that need not leave the chip."""

from collections.abc import Callable

from torch import Tensor, nn

from mmrfa.ops.folding import as_autocast, folded_features
from mmrfa.ops.receptive_field import Pair
from mmrfa.ops.rfa.fused import as_kernel
from mmrfa.ops.triton_conv import rf_conv
from mmrfa.ops.triton_launch import unsupported
from mmrfa.ops.triton_ops import rf_moments


def supports(
    x: Tensor,
    attn_weight: Tensor,
    feature_weight: Tensor,
    norm: Callable,
    *args,
    **kwargs,
) -> str | None:
    """None when :func:`rfa_conv2d` can run, else why not."""
    return unsupported(x, feature_weight, norm)


def rfa_conv2d(
    x: Tensor,
    attn_weight: Tensor,
    feature_weight: Tensor,
    norm: nn.Module,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    feature_bias: Tensor | None = None,
) -> Tensor:
    """Compute ``reference.rfa_conv2d``, keeping only ``x`` for backward."""
    x = as_autocast(x)
    geometry = (stride, padding, dilation)
    folded, shift, update = folded_features(
        rf_moments, x, feature_weight, feature_bias, norm, *geometry
    )
    gain = attn_weight.view(shift.shape).float()
    out = rf_conv(
        x, gain, folded, shift, weight, bias, *geometry, groups, False
    )
    update()
    return out


def unfold_supports(
    x: Tensor,
    attn_weight: Tensor,
    norm: Callable,
    weight: Tensor,
    *args,
    **kwargs,
) -> str | None:
    """None when :func:`rfa_unfold_conv2d` can run, else why not."""
    return unsupported(x, weight, norm)


def rfa_unfold_conv2d(
    x: Tensor,
    attn_weight: Tensor,
    norm: nn.Module,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    attn_bias: Tensor | None = None,
) -> Tensor:
    """Compute ``reference.rfa_unfold_conv2d``, keeping only ``x``."""
    x = as_autocast(x)
    geometry = (stride, padding, dilation)
    folded, shift, update = folded_features(
        rf_moments,
        x,
        as_kernel(attn_weight, weight),
        attn_bias,
        norm,
        *geometry,
    )
    out = rf_conv(
        x, None, folded, shift, weight, bias, *geometry, groups, True
    )
    update()
    return out
