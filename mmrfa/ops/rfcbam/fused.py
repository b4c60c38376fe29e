"""RFCBAMConv in stock PyTorch without the shuffle; any device and dtype."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrfa.ops.fused import sum_over_taps, with_features
from mmrfa.ops.gates import channel_gate
from mmrfa.ops.norm import unsupported_norm
from mmrfa.ops.receptive_field import Pair, spread


def supports(
    x: Tensor, feature_weight: Tensor, norm: Callable, *args, **kwargs
) -> str | None:
    """None when :func:`rfcbam_conv2d` can run, else why not."""
    return unsupported_norm(norm)


def position_gate(
    pooled: Tensor, spatial_weight: Tensor, kernel_size: Pair
) -> Tensor:
    """Spatial attention on pooled features that were not spread.

    Args:
        pooled (Tensor): maximum and mean over the channels,
            (N, 2, K, Ho, Wo).
        spatial_weight (Tensor): (1, 2, k, k).
        kernel_size (tuple[int, int]): (kh, kw).

    Returns:
        Tensor: (N, K, Ho, Wo), values in (0, 1).
    """
    kh, kw = kernel_size
    score = F.conv2d(
        spread(pooled, kernel_size),
        spatial_weight,
        padding=spatial_weight.size(-1) // 2,
    )
    n, _, height, width = score.shape
    gate = score.view(n, height // kh, kh, width // kw, kw)
    return gate.permute(0, 2, 4, 1, 3).flatten(1, 2).sigmoid()


def compute(
    with_features: Callable[..., Tensor],
    x: Tensor,
    feature_weight: Tensor,
    norm: nn.Module,
    squeeze: Tensor,
    expand: Tensor,
    spatial_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    feature_bias: Tensor | None = None,
) -> Tensor:
    """Compute ``reference.rfcbam_conv2d``, keeping only ``x``.

    ``with_features`` says how the features are made. Only the two pooled maps
    are spread; the gate made of them comes back to the layout of the features.
    """
    kernel_size = weight.shape[2:]

    def run(
        x: Tensor,
        features: Tensor,
        squeeze: Tensor,
        expand: Tensor,
        spatial_weight: Tensor,
        weight: Tensor,
    ) -> Tensor:
        pooled = torch.stack([features.amax(1), features.mean(1)], 1)
        spatial = position_gate(pooled, spatial_weight, kernel_size)
        channel = channel_gate(x, squeeze, expand, max_pool=False)
        weighted = features * channel.unsqueeze(2)
        weighted = weighted * spatial.unsqueeze(1)
        return sum_over_taps(weighted, weight, bias, groups)

    return with_features(
        run,
        x,
        feature_weight,
        feature_bias,
        norm,
        stride,
        padding,
        dilation,
        squeeze,
        expand,
        spatial_weight,
        weight,
    )


rfcbam_conv2d = partial(compute, with_features)
