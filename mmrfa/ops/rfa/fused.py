"""RFAConv in stock PyTorch without the shuffle; any device and dtype.

Derivation in README.md beside this file.
"""

from collections.abc import Callable

from torch import Tensor, nn

from mmrfa.ops.fused import mean_pool, sum_over_taps, with_features
from mmrfa.ops.norm import unsupported_norm
from mmrfa.ops.receptive_field import Pair
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
