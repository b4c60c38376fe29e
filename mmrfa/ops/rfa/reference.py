"""Receptive-field attention convolution, as its equations read."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.norm import normalize
from mmrfa.ops.receptive_field import (
    Pair,
    receptive_field,
    receptive_field_features,
    spread,
)


def softmax_over_taps(scores: Tensor) -> Tensor:
    """Softmax over dim 2 of (N, C, K, Ho, Wo), half precision in float32."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(2, dtype=wide).to(scores.dtype)


def rfa_conv2d(
    x: Tensor,
    attn_weight: Tensor,
    feature_weight: Tensor,
    norm: Callable[[Tensor], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    feature_bias: Tensor | None = None,
) -> Tensor:
    """Convolve with a weight of its own for every tap of every window.

    With the receptive field U of ``mmrfa.ops.receptive_field``::

        A[c, t] = g[c, t] * mean_t' U[c, t']        alpha = softmax_t A
        F[c, t] = ReLU(BN(sum_t' w[c, t, t'] * U[c, t']))
        out     = conv(spread(alpha * F), weight, bias), stride = kernel

    Source: Zhang et al., RFAConv, arXiv:2304.03198, the grouped-convolution
    form. Deviations: the authors' code refuses dilation, here it dilates U
    (features and average pooling alike); ``groups`` groups the last
    convolution only.

    Args:
        x (Tensor): (N, C, H, W).
        attn_weight (Tensor): g, (C*K, 1, 1, 1); row ``c * K + t``.
        feature_weight (Tensor): w, (C*K, 1, kh, kw).
        norm (Callable): BN over C*K channels; its mode decides which
            statistics are used and whether they are updated.
        weight (Tensor): (O, C / groups, kh, kw).
        bias (Tensor | None): (O,).
        stride, padding, dilation (tuple[int, int]): in pixels.
        groups (int): groups of the last convolution. Defaults to 1.
        feature_bias (Tensor | None): (C*K,), a folded norm. Defaults to None.

    Returns:
        Tensor: (N, O, Ho, Wo), the size ``F.conv2d`` gives.

    Note: half-precision scores are normalised in float32.
    """
    kernel_size = weight.shape[2:]
    field = receptive_field(x, kernel_size, stride, padding, dilation)
    gain = attn_weight.view(1, *field.shape[1:3], 1, 1)
    scores = field.mean(2, keepdim=True) * gain
    alpha = softmax_over_taps(scores)
    features = receptive_field_features(
        x, feature_weight, feature_bias, norm, stride, padding, dilation
    )
    weighted = spread(alpha.to(features.dtype) * features, kernel_size)
    return F.conv2d(weighted, weight, bias, kernel_size, groups=groups)


def rfa_unfold_conv2d(
    x: Tensor,
    attn_weight: Tensor,
    norm: Callable[[Tensor], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    attn_bias: Tensor | None = None,
) -> Tensor:
    """Receptive-field attention on the raw patches, without learned features.

    ``alpha = softmax_t BN(sum_t' v[c, t, t'] * U[c, t'] + b[c, t])`` and
    ``out = conv(spread(alpha * U), weight, bias)``, stride = kernel.
    Source: RFAConv, arXiv:2304.03198, the variant on unfolded features.

    Args:
        x (Tensor): (N, C, H, W).
        attn_weight (Tensor): v, (C*K, K, 1, 1); row ``c * K + t``.
        norm (Callable): BN over C*K channels.
        weight, bias, stride, padding, dilation, groups: as in
            :func:`rfa_conv2d`.
        attn_bias (Tensor | None): b, (C*K,).

    Returns:
        Tensor: (N, O, Ho, Wo).

    Note: half-precision scores are normalised in float32.
    """
    kernel_size = weight.shape[2:]
    channels = x.size(1)
    field = receptive_field(x, kernel_size, stride, padding, dilation)
    scores = F.conv2d(
        field.flatten(1, 2), attn_weight, attn_bias, groups=channels
    )
    scores = normalize(norm, scores).view_as(field)
    weighted = softmax_over_taps(scores).to(field.dtype) * field
    weighted = spread(weighted, kernel_size)
    return F.conv2d(weighted, weight, bias, kernel_size, groups=groups)
