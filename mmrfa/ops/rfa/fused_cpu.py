"""RFAConv by the compiled CPU kernels: one pass, nothing of size C*K kept."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmrfa.ops.cpu import folded_features, unsupported
from mmrfa.ops.folding import as_autocast
from mmrfa.ops.receptive_field import Pair
from mmrfa.ops.rfa.fused import as_kernel


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
        x, feature_weight, feature_bias, norm, *geometry
    )
    gain = attn_weight.view(x.size(1), -1).float()
    gates = (None, None)
    out = torch.ops.mmrfa.rf_conv(
        x, gain, folded, shift, weight, bias, *gates, *geometry, groups, False
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
        x, as_kernel(attn_weight, weight), attn_bias, norm, *geometry
    )
    gates = (None, None)
    out = torch.ops.mmrfa.rf_conv(
        x, None, folded, shift, weight, bias, *gates, *geometry, groups, True
    )
    update()
    return out
