"""RFAConv by the compiled CPU kernels: one pass, nothing of size C*K kept."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmrfa.ops.cpu import moments, unsupported
from mmrfa.ops.folding import as_autocast, folded_features
from mmrfa.ops.receptive_field import Pair


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
        moments, x, feature_weight, feature_bias, norm, *geometry
    )
    gain = attn_weight.view(x.size(1), -1).float()
    out = torch.ops.mmrfa.rf_conv(
        x, gain, folded, shift, weight, bias, *geometry, groups
    )
    update()
    return out
