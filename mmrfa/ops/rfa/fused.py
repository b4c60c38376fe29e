"""RFAConv in stock PyTorch without the shuffle; any device and dtype.

Derivation in README.md beside this file.
"""

from torch import Tensor

from mmrfa.ops.common.features import with_features
from mmrfa.ops.common.norm import ConvNorm, unsupported_norm
from mmrfa.ops.common.taps import Conv, softmax_over_taps, sum_over_taps
from mmrfa.ops.common.window import (
    Window,
    like_input,
    mean_over_taps,
    receptive_field,
)


def supports(
    x: Tensor, gain: Tensor, feature: ConvNorm, conv: Conv, window: Window
) -> str | None:
    """None when :func:`rfa_conv2d` can run, else why not."""
    return unsupported_norm(feature.norm)


def rfa_conv2d(
    x: Tensor,
    gain: Tensor,
    feature: ConvNorm,
    conv: Conv,
    window: Window,
) -> Tensor:
    """Compute ``reference.rfa_conv2d``, keeping only ``x`` for backward."""

    def run(
        x: Tensor, features: Tensor, gain: Tensor, weight: Tensor
    ) -> tuple[Tensor, None]:
        pooled = mean_over_taps(x, window).unsqueeze(2)
        scores = pooled * gain.view(1, x.size(1), window.taps, 1, 1)
        alpha = softmax_over_taps(scores)
        weighted = alpha.to(features.dtype) * features
        return sum_over_taps(weighted, conv._replace(weight=weight)), None

    params = gain, conv.weight
    out, _ = with_features(run, x, feature, window, params)
    return like_input(out, x)


def as_kernel(attn: ConvNorm, window: Window) -> ConvNorm:
    """View the unfold form's v (C*K, K, 1, 1) as (C*K, 1, kh, kw).

    A grouped 1x1 convolution of the patches is a grouped convolution of x.
    """
    weight = attn.weight.view(-1, 1, *window.kernel_size)
    return attn._replace(weight=weight)


def unfold_supports(
    x: Tensor, attn: ConvNorm, conv: Conv, window: Window
) -> str | None:
    """None when :func:`rfa_unfold_conv2d` can run, else why not."""
    return unsupported_norm(attn.norm)


def rfa_unfold_conv2d(
    x: Tensor, attn: ConvNorm, conv: Conv, window: Window
) -> Tensor:
    """Compute ``reference.rfa_unfold_conv2d``, keeping only ``x``."""

    def run(x: Tensor, scores: Tensor, weight: Tensor) -> tuple[Tensor, None]:
        field = receptive_field(x, window)
        weighted = softmax_over_taps(scores).to(field.dtype) * field
        return sum_over_taps(weighted, conv._replace(weight=weight)), None

    feature = as_kernel(attn, window)
    out, _ = with_features(run, x, feature, window, [conv.weight], relu=False)
    return like_input(out, x)
