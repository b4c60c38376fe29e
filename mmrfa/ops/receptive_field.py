"""Receptive-field patches, the features made of them, and their layout.

Symbols here and in every operator: ``x`` (N, C, H, W) is the input, kernel
(kh, kw) has K = kh * kw taps in row-major order, (Ho, Wo) is the output size
of ``nn.Conv2d`` with the same stride, padding and dilation.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.norm import normalize

Pair = tuple[int, int]


def out_size(
    x: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> list[int]:
    """(Ho, Wo), as ``nn.Conv2d`` gives them."""
    return [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(
            x.shape[2:], kernel_size, stride, padding, dilation, strict=True
        )
    ]


def receptive_field(
    x: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Gather the receptive field of every output pixel.

    ``U[n, c, t, ho, wo] = x[n, c, ho * s - p + i * d, wo * s - p + j * d]``
    with tap t = (i, j), and zero outside the image.

    Args:
        x (Tensor): (N, C, H, W).
        kernel_size, stride, padding, dilation (tuple[int, int]): in pixels,
            (vertical, horizontal).

    Returns:
        Tensor: U, (N, C, K, Ho, Wo).
    """
    size = out_size(x, kernel_size, stride, padding, dilation)
    columns = F.unfold(x, kernel_size, dilation, padding, stride)
    taps = kernel_size[0] * kernel_size[1]
    return columns.view(x.size(0), x.size(1), taps, *size)


def receptive_field_features(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Callable[[Tensor], Tensor],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """Learn K features per channel from each receptive field.

    ``F[c, t] = ReLU(BN(sum_t' w[c, t, t'] * U[c, t']))``, a grouped
    convolution. Source: RFAConv, arXiv:2304.03198, the grouped form.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): w, (C*K, 1, kh, kw); row ``c * K + t``.
        bias (Tensor | None): (C*K,); None unless ``norm`` was folded into it.
        norm (Callable): batch norm over C*K channels.
        stride, padding, dilation (tuple[int, int]): in pixels.

    Returns:
        Tensor: F, (N, C, K, Ho, Wo).
    """
    channels = x.size(1)
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups=channels)
    taps = weight.size(0) // channels
    return F.relu(normalize(norm, y)).unflatten(1, (channels, taps))


def spread(y: Tensor, kernel_size: Pair) -> Tensor:
    """Lay the K values of each pixel out as a kh x kw tile.

    ``Z[c, ho * kh + i, wo * kw + j] = y[c, (i, j), ho, wo]``: a convolution
    with kernel and stride (kh, kw) then sees each receptive field once.

    Args:
        y (Tensor): (N, C, K, Ho, Wo).
        kernel_size (tuple[int, int]): (kh, kw).

    Returns:
        Tensor: Z, (N, C, Ho * kh, Wo * kw).
    """
    n, c, _, ho, wo = y.shape
    kh, kw = kernel_size
    y = y.reshape(n, c, kh, kw, ho, wo).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c, ho * kh, wo * kw)
