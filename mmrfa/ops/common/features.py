"""Features that every channel learns from its receptive fields."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.norm import (
    ConvNorm,
    move,
    normalize,
    normalized,
    uses_batch,
)
from mmrfa.ops.common.recompute import recompute
from mmrfa.ops.common.window import Window, convolve_each


def receptive_field_features(
    x: Tensor, feature: ConvNorm, window: Window
) -> Tensor:
    """Learn K features per channel from each receptive field.

    ``F[c, t] = ReLU(BN(sum_t' w[c, t, t'] * U[c, t']))``, a grouped
    convolution. Source: RFAConv, arXiv:2304.03198, the grouped form.

    Args:
        x (Tensor): (N, C, H, W).
        feature (ConvNorm): w, (C*K, 1, kh, kw), row ``c * K + t``; its norm
            over C*K channels.
        window (Window): of the operator.

    Returns:
        Tensor: F, (N, C, K, Ho, Wo).
    """
    y = convolve_each(x, feature.weight, feature.bias, window)
    y = F.relu(normalize(y, feature.norm))
    return y.unflatten(1, (x.size(1), window.taps))


def with_features(
    run: Callable[..., tuple[Tensor, Any]],
    x: Tensor,
    feature: ConvNorm,
    window: Window,
    params: Sequence[Tensor],
    relu: bool = True,
    layers: tuple = (),
) -> tuple[Tensor, Any]:
    """Run a function of the receptive-field features, keeping only ``x``.

    The features are computed once more in backward; running statistics move
    once.

    Args:
        run (Callable): a pure ``run(x, features, *params)`` with features
            (N, C, K, Ho, Wo); it may close over ``layers``.
        x (Tensor): (N, C, H, W).
        feature (ConvNorm): as in :func:`receptive_field_features`, with a
            batch norm.
        window (Window): of the operator.
        params (Sequence[Tensor]): further inputs that ``run`` differentiates.
        relu (bool): whether a ReLU follows the norm. Defaults to True.
        layers (tuple): further ones that ``run`` closes over.

    Returns:
        tuple[Tensor, Any]: what ``run`` returns: a result, and anything that
        is not differentiated.
    """
    height, width = window.out_size(x)
    if not uses_batch(feature.norm, x.size(0) * height * width):
        feature = feature.folded()
    norm = feature.norm

    def compute(x: Tensor, *rest: Tensor) -> tuple:
        weight, *rest = rest
        y = convolve_each(x, weight, bias, window)
        y, statistics = normalized(y, norm)
        if relu:
            y = y.relu()
        y = y.unflatten(1, (x.size(1), window.taps))
        return *run(x, y, *rest), statistics

    bias = feature.bias
    result, more, statistics = recompute(
        compute,
        x,
        feature.weight,
        *params,
        layers=(feature, layers),
    )
    if statistics is not None:
        move(norm, statistics)
    return result, more
