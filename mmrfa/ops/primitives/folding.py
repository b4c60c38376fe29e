"""Batch norm folded into the features that the kernels know.

These are ``ReLU(sum_t' v[c, t, t'] * U[c, t'] + b[c, t])``. In training mode,
the statistics that ``v`` and ``b`` come from follow from the mean and the
covariance of the receptive field: a pass over ``x`` that stores K + K*K
numbers per channel. All of it is differentiable.
"""

from typing import NamedTuple

from torch import Tensor

from mmrfa.ops.common.norm import (
    ConvNorm,
    Statistics,
    move,
    over_group,
    uses_batch,
)
from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives.rf_moments import rf_moments


class Folded(NamedTuple):
    """Linear functions of the taps, float32 or float64.

    Features are made in float32. What a batch norm in training mode is folded
    into is float64, as its gradients are: they nearly cancel in those of the
    norm, where the mean of the features is large.

    Attributes:
        weight (Tensor): v, (C, K, K).
        shift (Tensor): b, (C, K).
    """

    weight: Tensor
    shift: Tensor


def folded_features(x: Tensor, feature: ConvNorm, window: Window) -> Folded:
    """Fold a batch norm into the grouped convolution of the features.

    Args:
        x (Tensor): (N, C, H, W).
        feature (ConvNorm): as in ``receptive_field_features``, with a batch
            norm, whose running statistics move in training mode.
        window (Window): of the operator.

    Returns:
        Folded: what the kernels take.
    """
    shape = x.size(1), window.taps
    height, width = window.out_size(x)
    count = x.size(0) * height * width
    norm = feature.norm
    if not uses_batch(norm, count):
        weight, bias, _ = feature.folded()
        if bias is None:
            bias = weight.new_zeros(weight.size(0))
        weight = weight.reshape(*shape, window.taps)
        return Folded(weight.float(), bias.view(shape).float())
    v = feature.weight.reshape(*shape, window.taps).double()
    mean, covariance = rf_moments(x, window, v, norm.eps)
    mean = (v @ mean.unsqueeze(2)).flatten()
    var = ((v @ covariance) * v).sum(2).flatten().clamp(min=0)
    if feature.bias is not None:
        mean = mean + feature.bias.double()
    mean, var, unbiased = over_group(mean, var, count, norm)
    scale = norm.weight.double() * (var + norm.eps).rsqrt()
    shift = norm.bias.double() - mean * scale
    if feature.bias is not None:  # only the running mean sees it
        shift = shift + feature.bias.double() * scale
    move(norm, Statistics(mean.detach(), unbiased.detach()))
    weight = v * scale.view(*shape, 1)
    return Folded(weight, shift.view(shape))
