"""Attentional-weight convolution, as its equations read."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.aw.pool import pool_to
from mmrfa.ops.common.norm import ConvNorm, normalize
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.window import Window, like_input


class WeightAttention(NamedTuple):
    """The layers of the attention with the shape of a weight.

    Attributes:
        squeeze (ConvNorm): (C/r, C, 1, 1), and BN over C/r channels.
        expand (ConvNorm): (O, C/r, 1, 1), and BN over O channels.
        fan_out (Conv): (O*M, 1, 1, 1), with a bias and groups = O.
    """

    squeeze: ConvNorm
    expand: ConvNorm
    fan_out: Conv


def weight_attention(
    x: Tensor, layers: WeightAttention, weight_shape: torch.Size
) -> Tensor:
    """Compute an attention map with the shape of the weight, per sample.

    ::

        A0 = adaptive average pool of x to (C, kh, kw)
        A1 = ReLU(BN(1x1, C -> C/r))      A2 = ReLU(BN(1x1, C/r -> O))
        A3 = 1x1 with groups = O, O -> O * M
        A  = sigmoid(A3), each of the M maps of an output channel serving
             neighbouring input channels

    Source: AW-convolution, arXiv:2108.08205, publishes the shapes, the
    pooling, the two pointwise convolutions with ReLU and the grouped
    expansion. OUR reading of the rest: batch norm behind both pointwise
    convolutions, the bias of the expansion, and M = max(1, I // r) maps for
    the I input channels of a group, input channel i using map
    ``i * M // I`` (that is ``i // r`` where r divides I).

    Args:
        x (Tensor): (N, C, H, W).
        layers (WeightAttention): of the attention.
        weight_shape (torch.Size): (O, I, kh, kw).

    Returns:
        Tensor: (N, O, I, kh, kw), values in (0, 1).
    """
    return spread(attention_maps(x, layers, weight_shape), weight_shape[1])


def spread(maps: Tensor, inputs: int) -> Tensor:
    """Give each of I input channels its map, of (N, O, M, kh, kw)."""
    count = maps.size(2)
    if inputs % count == 0:
        each = maps.unsqueeze(3)
        each = each.expand(-1, -1, -1, inputs // count, -1, -1)
        return each.flatten(2, 3)
    # No index_select: of that torch.compile makes wrong gradients (2.13).
    served = [-(-m * inputs // count) for m in range(count + 1)]
    return torch.cat(
        [
            maps[:, :, m : m + 1].expand(-1, -1, end - start, -1, -1)
            for m, (start, end) in enumerate(zip(served, served[1:]))
        ],
        2,
    )


def attention_maps(
    x: Tensor, layers: WeightAttention, weight_shape: torch.Size
) -> Tensor:
    """Compute the M different maps of :func:`weight_attention`.

    Returns:
        Tensor: (N, O, M, kh, kw).
    """
    out_channels, _, *kernel_size = weight_shape
    hidden = expanded(x, layers, kernel_size)
    weight, bias, groups = layers.fan_out
    scores = F.conv2d(hidden, weight, bias, groups=groups)
    maps = weight.size(0) // out_channels
    return scores.sigmoid().unflatten(1, (out_channels, maps))


def expanded(
    x: Tensor, layers: WeightAttention, kernel_size: Sequence[int]
) -> Tensor:
    """Compute A2 of :func:`weight_attention`, (N, O, kh, kw)."""
    hidden = pool_to(x, kernel_size)
    for conv in (layers.squeeze, layers.expand):
        hidden = F.conv2d(hidden, conv.weight, conv.bias)
        hidden = F.relu(normalize(hidden, conv.norm))
    return hidden


def aw_conv2d(
    x: Tensor,
    attention: WeightAttention,
    conv: Conv,
    window: Window,
    gated: Tensor | None = None,
) -> Tensor:
    """Convolve every sample with its own attended weight.

    ``out_n = conv(x_n, weight * A_n) + bias`` with A from
    :func:`weight_attention`. One convolution with N * groups groups serves
    the batch. Source: AW-convolution, arXiv:2108.08205.

    Args:
        x (Tensor): (N, C, H, W), the input of the weight attention.
        attention (WeightAttention): layers of the attention.
        conv (Conv): the convolution, (O, C / groups, kh, kw).
        window (Window): of the convolution.
        gated (Tensor | None): what is convolved, where activation attention
            acts as well (AW + SE, AW + CBAM); (N, C, H, W). None stands for
            ``x``.

    Returns:
        Tensor: (N, O, Ho, Wo).
    """
    weight, bias, groups = conv
    weights = weight * weight_attention(x, attention, weight.shape)
    x = x if gated is None else gated
    _, *geometry = window
    n, c, h, w = x.shape
    if n == 0:  # no group to convolve: the empty output of the plain weight
        y = F.conv2d(x, weight, bias, *geometry, groups)
        # Also here the attention has a gradient, which a synchronised norm
        # takes to the other processes.
        return y + weights.sum()
    y = F.conv2d(
        x.reshape(1, n * c, h, w),
        weights.flatten(0, 1),
        None,
        *geometry,
        groups=n * groups,
    )
    y = y.view(n, weight.size(0), *y.shape[2:])
    y = y if bias is None else y + bias.to(y.dtype).view(1, -1, 1, 1)
    return like_input(y, x)
