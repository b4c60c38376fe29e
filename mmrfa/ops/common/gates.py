"""Sigmoid gates of activation attention, the parts the operators share.

Every function returns the gate, not the gated input, so that a caller may
apply it in whatever layout is cheapest.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.norm import ConvNorm, Norm, normalize
from mmrfa.ops.common.taps import Conv, pointwise


def channel_gate(
    x: Tensor, squeeze: Tensor, expand: Tensor, max_pool: bool
) -> Tensor:
    """Weigh the channels: ``sigmoid(MLP(avg(x)) [+ MLP(max(x))])``.

    With ``max_pool`` the channel attention of CBAM (arXiv:1807.06521, Eq. 2),
    without it that of SE (arXiv:1709.01507, Eq. 3).

    Args:
        x (Tensor): (N, C, H, W).
        squeeze (Tensor): first layer of the MLP, (hidden, C, 1, 1).
        expand (Tensor): second layer, (C, hidden, 1, 1).
        max_pool (bool): add the branch over the spatial maximum.

    Returns:
        Tensor: (N, C, 1, 1), values in (0, 1).
    """

    def mlp(pooled: Tensor) -> Tensor:
        return pointwise(F.relu(pointwise(pooled, squeeze)), expand)

    score = mlp(x.mean((2, 3), keepdim=True))
    if max_pool:
        score = score + mlp(x.amax((2, 3), keepdim=True))
    return score.sigmoid()


def spatial_gate(x: Tensor, weight: Tensor) -> Tensor:
    """Weigh the positions: ``sigmoid(conv([max over c of x; mean]))``.

    Source: spatial attention of CBAM, arXiv:1807.06521, Eq. 3.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (1, 2, k, k), k odd; the padding keeps the size.

    Returns:
        Tensor: (N, 1, H, W), values in (0, 1).
    """
    pooled = torch.cat([x.amax(1, True), x.mean(1, True)], 1)
    # In a trace of torch 2.1 a single number would be lost.
    padding = [weight.size(-1) // 2] * 2
    return F.conv2d(pooled, weight, padding=padding).sigmoid()


class CoordinateGates(NamedTuple):
    """The layers of coordinate attention over C channels.

    Attributes:
        squeeze (ConvNorm): 1x1 convolution to ``hidden`` channels, and norm.
        expand_h (Conv): (C, hidden, 1, 1), for the rows.
        expand_w (Conv): (C, hidden, 1, 1), for the columns.
    """

    squeeze: ConvNorm
    expand_h: Conv
    expand_w: Conv


def coordinate_gates(
    x: Tensor, layers: CoordinateGates
) -> tuple[Tensor, Tensor]:
    """Weigh rows and columns by coordinate attention.

    The means over the width and over the height are joined along their
    length, squeezed by a 1x1 convolution, batch norm and h-swish, split, and
    each expanded to a sigmoid gate. Source: arXiv:2103.02907, Eqs. 4 to 7.

    Args:
        x (Tensor): (N, C, H, W).
        layers (CoordinateGates): of the attention.

    Returns:
        tuple[Tensor, Tensor]: row gate (N, C, H, 1) and column gate
        (N, C, 1, W), values in (0, 1).
    """
    return gates_of_means(x.mean(3, True), x.mean(2, True), layers, normalize)


def gates_of_means(
    rows: Tensor,
    columns: Tensor,
    layers: CoordinateGates,
    normalize: Callable[[Tensor, Norm], Tensor],
) -> tuple[Tensor, Tensor]:
    """Compute :func:`coordinate_gates` from the two means.

    Args:
        rows (Tensor): mean over the width, (N, C, H, 1).
        columns (Tensor): mean over the height, (N, C, 1, W).
        layers (CoordinateGates): of the attention.
        normalize (Callable): ``norm.normalize``, or what stands for it.

    Returns:
        tuple[Tensor, Tensor]: as :func:`coordinate_gates`.
    """
    lengths = [rows.size(2), columns.size(3)]
    joined = torch.cat([rows, columns.transpose(2, 3)], 2)
    joined = pointwise(joined, layers.squeeze.weight, layers.squeeze.bias)
    joined = F.hardswish(normalize(joined, layers.squeeze.norm))
    rows, columns = joined.split(lengths, 2)
    columns = columns.transpose(2, 3)
    expand_h, expand_w = layers.expand_h, layers.expand_w
    return (
        pointwise(rows, expand_h.weight, expand_h.bias).sigmoid(),
        pointwise(columns, expand_w.weight, expand_w.bias).sigmoid(),
    )
