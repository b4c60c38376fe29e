"""Attentional-weight convolution, as its equations read."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.norm import normalize
from mmrfa.ops.receptive_field import Pair


def weight_attention(
    x: Tensor,
    squeeze: Tensor,
    squeeze_bias: Tensor | None,
    squeeze_norm: Callable[[Tensor], Tensor],
    expand: Tensor,
    expand_bias: Tensor | None,
    expand_norm: Callable[[Tensor], Tensor],
    fan_out: Tensor,
    fan_out_bias: Tensor,
    weight_shape: torch.Size,
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
        squeeze (Tensor): (C/r, C, 1, 1), ``squeeze_bias`` None unless its
            norm was folded.
        squeeze_norm (Callable): BN over C/r channels.
        expand (Tensor): (O, C/r, 1, 1), ``expand_bias`` likewise.
        expand_norm (Callable): BN over O channels.
        fan_out (Tensor): (O*M, 1, 1, 1), with ``fan_out_bias`` (O*M,).
        weight_shape (torch.Size): (O, I, kh, kw).

    Returns:
        Tensor: (N, O, I, kh, kw), values in (0, 1).
    """
    out_channels, in_channels, kh, kw = weight_shape
    pooled = F.adaptive_avg_pool2d(x, (kh, kw))
    hidden = F.conv2d(pooled, squeeze, squeeze_bias)
    hidden = F.relu(normalize(squeeze_norm, hidden))
    hidden = F.conv2d(hidden, expand, expand_bias)
    hidden = F.relu(normalize(expand_norm, hidden))
    scores = F.conv2d(hidden, fan_out, fan_out_bias, groups=out_channels)
    maps = fan_out.size(0) // out_channels
    attention = scores.sigmoid().unflatten(1, (out_channels, maps))
    channel = torch.arange(in_channels, device=x.device)
    return attention[:, :, channel * maps // in_channels]


def aw_conv2d(
    x: Tensor,
    attention_params: tuple,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    gated: Tensor | None = None,
) -> Tensor:
    """Convolve every sample with its own attended weight.

    ``out_n = conv(x_n, weight * A_n) + bias`` with A from
    :func:`weight_attention`. One convolution with N * groups groups serves
    the batch. Source: AW-convolution, arXiv:2108.08205.

    Args:
        x (Tensor): (N, C, H, W), the input of the weight attention.
        attention_params (tuple): the arguments of :func:`weight_attention`
            between its input and ``weight_shape``, in order.
        weight (Tensor): (O, C / groups, kh, kw).
        bias (Tensor | None): (O,).
        stride, padding, dilation (tuple[int, int]): in pixels.
        groups (int): as in ``F.conv2d``. Defaults to 1.
        gated (Tensor | None): what is convolved, where activation attention
            acts as well (AW + SE, AW + CBAM); (N, C, H, W). None stands for
            ``x``.

    Returns:
        Tensor: (N, O, Ho, Wo).
    """
    attention = weight_attention(x, *attention_params, weight.shape)
    weights = (weight * attention).flatten(0, 1)
    x = x if gated is None else gated
    n, c, h, w = x.shape
    if n == 0:  # no group to convolve: the empty output of the plain weight
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    y = F.conv2d(
        x.reshape(1, n * c, h, w),
        weights,
        None,
        stride,
        padding,
        dilation,
        groups=n * groups,
    )
    y = y.view(n, weight.size(0), *y.shape[2:])
    return y if bias is None else y + bias.to(y.dtype).view(1, -1, 1, 1)
