"""RFAConv in stock PyTorch without the shuffle; any device and dtype.

Derivation in README.md beside this file.
"""

from collections.abc import Callable

from torch import Tensor, nn

from mmrfa.ops.fused import mean_pool, sum_over_taps, with_features
from mmrfa.ops.norm import unsupported_norm
from mmrfa.ops.receptive_field import Pair, receptive_field
from mmrfa.ops.rfa.reference import softmax_over_taps


def supports(
    x: Tensor,
    attn_weight: Tensor,
    feature_weight: Tensor,
    norm: Callable,
    *args,
    **kwargs,
) -> str | None:
    """None when :func:`rfa_conv2d` can run, else why not."""
    return unsupported_norm(norm)


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
    geometry = (stride, padding, dilation)
    taps = attn_weight.size(0) // x.size(1)

    def run(
        x: Tensor, features: Tensor, gain: Tensor, weight: Tensor
    ) -> Tensor:
        pooled = mean_pool(x, weight.shape[2:], *geometry).unsqueeze(2)
        alpha = softmax_over_taps(pooled * gain.view(1, -1, taps, 1, 1))
        weighted = alpha.to(features.dtype) * features
        return sum_over_taps(weighted, weight, bias, groups)

    return with_features(
        run,
        x,
        feature_weight,
        feature_bias,
        norm,
        *geometry,
        attn_weight,
        weight,
    )


def as_kernel(attn_weight: Tensor, weight: Tensor) -> Tensor:
    """View the unfold form's v (C*K, K, 1, 1) as (C*K, 1, kh, kw).

    A grouped 1x1 convolution of the patches is a grouped convolution of x.
    """
    return attn_weight.view(-1, 1, *weight.shape[2:])


def unfold_supports(
    x: Tensor, attn_weight: Tensor, norm: Callable, *args, **kwargs
) -> str | None:
    """None when :func:`rfa_unfold_conv2d` can run, else why not."""
    return unsupported_norm(norm)


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
    geometry = (stride, padding, dilation)

    def run(x: Tensor, scores: Tensor, weight: Tensor) -> Tensor:
        field = receptive_field(x, weight.shape[2:], *geometry)
        weighted = softmax_over_taps(scores).to(field.dtype) * field
        return sum_over_taps(weighted, weight, bias, groups)

    return with_features(
        run,
        x,
        as_kernel(attn_weight, weight),
        attn_bias,
        norm,
        *geometry,
        weight,
        relu=False,
    )
