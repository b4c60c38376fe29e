"""RFAConv by Triton kernels: one pass to what the last convolution sums."""

from collections.abc import Callable

from torch import Tensor, nn

from mmrfa.ops.fused import sum_over_taps
from mmrfa.ops.receptive_field import Pair
from mmrfa.ops.triton_ops import rf_features, unsupported, with_folded


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
    geometry = (stride, padding, dilation)

    def run(
        x: Tensor, folded: Tensor, shift: Tensor, gain: Tensor, weight: Tensor
    ) -> Tensor:
        gain = gain.view(shift.shape).float()
        y = rf_features(x, gain, folded, shift, weight.shape[2:], *geometry)
        return sum_over_taps(y, weight, bias, groups)

    return with_folded(
        run,
        x,
        feature_weight,
        feature_bias,
        norm,
        *geometry,
        attn_weight,
        weight,
    )
