"""RFCBAMConv in stock PyTorch without the shuffle; any device and dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.features import with_features
from mmrfa.ops.common.gates import channel_gate
from mmrfa.ops.common.norm import ConvNorm, unsupported_norm
from mmrfa.ops.common.taps import Conv, sum_over_taps
from mmrfa.ops.common.window import (
    Pair,
    Window,
    like_input,
    spread,
    unspread,
)
from mmrfa.ops.rfcbam.reference import CBAMGates


def supports(
    x: Tensor,
    feature: ConvNorm,
    gates: CBAMGates,
    conv: Conv,
    window: Window,
) -> str | None:
    """None when :func:`rfcbam_conv2d` can run, else why not."""
    return unsupported_norm(feature.norm)


def position_gate(pooled: Tensor, spatial: Tensor, kernel: Pair) -> Tensor:
    """Spatial attention on pooled features that were not spread.

    Args:
        pooled (Tensor): maximum and mean over the channels,
            (N, 2, K, Ho, Wo).
        spatial (Tensor): (1, 2, k, k).
        kernel (tuple[int, int]): (kh, kw).

    Returns:
        Tensor: (N, K, Ho, Wo), values in (0, 1).
    """
    score = F.conv2d(
        spread(pooled, kernel), spatial, padding=spatial.size(-1) // 2
    )
    return unspread(score, kernel).squeeze(1).sigmoid()


def rfcbam_conv2d(
    x: Tensor,
    feature: ConvNorm,
    gates: CBAMGates,
    conv: Conv,
    window: Window,
) -> Tensor:
    """Compute ``reference.rfcbam_conv2d``, keeping only ``x``.

    Only the two pooled maps are spread; the gate made of them comes back to
    the layout of the features.
    """

    def run(
        x: Tensor,
        features: Tensor,
        squeeze: Tensor,
        expand: Tensor,
        spatial: Tensor,
        weight: Tensor,
    ) -> tuple[Tensor, None]:
        pooled = torch.stack([features.amax(1), features.mean(1)], 1)
        position = position_gate(pooled, spatial, window.kernel_size)
        channel = channel_gate(x, squeeze, expand, max_pool=False)
        weighted = features * channel.unsqueeze(2)
        weighted = weighted * position.unsqueeze(1)
        return sum_over_taps(weighted, conv._replace(weight=weight)), None

    params = *gates, conv.weight
    out, _ = with_features(run, x, feature, window, params)
    return like_input(out, x)
