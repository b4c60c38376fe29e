"""Sigmoid gates of activation attention, the parts the operators share.

Every function returns the gate, not the gated input, so that a caller may
apply it in whatever layout is cheapest.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.norm import normalize


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
        return F.conv2d(F.relu(F.conv2d(pooled, squeeze)), expand)

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


def coordinate_gates(x: Tensor, *params) -> tuple[Tensor, Tensor]:
    """Weigh rows and columns by coordinate attention.

    The means over the width and over the height are joined along their
    length, squeezed by a 1x1 convolution, batch norm and h-swish, split, and
    each expanded to a sigmoid gate. Source: arXiv:2103.02907, Eqs. 4 to 7.

    Args:
        x (Tensor): (N, C, H, W).
        *params: see :func:`gates_of_means`.

    Returns:
        tuple[Tensor, Tensor]: row gate (N, C, H, 1) and column gate
        (N, C, 1, W), values in (0, 1).
    """
    return gates_of_means(x.mean(3, True), x.mean(2, True), *params)


def gates_of_means(
    rows: Tensor,
    columns: Tensor,
    squeeze: Tensor,
    squeeze_bias: Tensor | None,
    norm: Callable[[Tensor], Tensor],
    expand_h: Tensor,
    expand_h_bias: Tensor,
    expand_w: Tensor,
    expand_w_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute :func:`coordinate_gates` from the two means.

    Args:
        rows (Tensor): mean over the width, (N, C, H, 1).
        columns (Tensor): mean over the height, (N, C, 1, W).
        squeeze (Tensor): (hidden, C, 1, 1), with ``squeeze_bias`` (hidden,).
        norm (Callable): batch norm over the hidden channels.
        expand_h (Tensor): (C, hidden, 1, 1), with ``expand_h_bias`` (C,).
        expand_w (Tensor): (C, hidden, 1, 1), with ``expand_w_bias`` (C,).

    Returns:
        tuple[Tensor, Tensor]: as :func:`coordinate_gates`.
    """
    lengths = [rows.size(2), columns.size(3)]
    joined = torch.cat([rows, columns.transpose(2, 3)], 2)
    joined = F.conv2d(joined, squeeze, squeeze_bias)
    joined = F.hardswish(normalize(norm, joined))
    rows, columns = joined.split(lengths, 2)
    columns = columns.transpose(2, 3)
    return (
        F.conv2d(rows, expand_h, expand_h_bias).sigmoid(),
        F.conv2d(columns, expand_w, expand_w_bias).sigmoid(),
    )
