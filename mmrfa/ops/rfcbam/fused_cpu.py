"""RFCBAMConv by the compiled CPU kernels: nothing of size C*K kept."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmrfa.ops.cpu import folded_features, unsupported
from mmrfa.ops.folding import as_autocast
from mmrfa.ops.gates import channel_gate
from mmrfa.ops.receptive_field import Pair
from mmrfa.ops.rfcbam.fused import position_gate


def supports(
    x: Tensor,
    feature_weight: Tensor,
    norm: Callable,
    *args,
    **kwargs,
) -> str | None:
    """None when :func:`rfcbam_conv2d` can run, else why not."""
    return unsupported(x, feature_weight, norm)


def rfcbam_conv2d(
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
    """Compute ``reference.rfcbam_conv2d``.

    The features are made twice, for the pooled maps and for the sum; kept are
    ``x`` and maps of one channel.
    """
    x = as_autocast(x)
    kernel_size = weight.shape[2:]
    geometry = (stride, padding, dilation)
    folded, shift, update = folded_features(
        x, feature_weight, feature_bias, norm, *geometry
    )
    maximum, mean, _ = torch.ops.mmrfa.rf_channel_pool(
        x, folded, shift, kernel_size, *geometry
    )
    pooled = torch.stack([maximum, mean], 1).to(x.dtype)
    spatial = position_gate(pooled, spatial_weight, kernel_size)
    channel = channel_gate(x, squeeze, expand, max_pool=False)
    out = torch.ops.mmrfa.rf_conv(
        x,
        None,
        folded,
        shift,
        weight,
        bias,
        channel.flatten(1).float(),
        spatial.float(),
        *geometry,
        groups,
        False,
    )
    update()
    return out
