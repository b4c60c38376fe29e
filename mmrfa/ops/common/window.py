"""The window of a convolution, and the receptive fields that it sees.

Symbols here and in every operator: ``x`` (N, C, H, W) is the input, kernel
(kh, kw) has K = kh * kw taps in row-major order, (Ho, Wo) is the output size
of ``nn.Conv2d`` with the same stride, padding and dilation.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.tracing import is_transformed

Pair = tuple[int, int]


class Window(NamedTuple):
    """Where the taps of a convolution lie; all in pixels, vertical first.

    Attributes:
        kernel_size (tuple[int, int]): (kh, kw).
        stride (tuple[int, int]): from one window to the next.
        padding (tuple[int, int]): zeros added on both sides.
        dilation (tuple[int, int]): from one tap to the next.
    """

    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def taps(self) -> int:
        """K, number of taps."""
        return self.kernel_size[0] * self.kernel_size[1]

    def out_size(self, x: Tensor) -> tuple[int, int]:
        """(Ho, Wo), as ``nn.Conv2d`` gives them for x (N, C, H, W)."""
        height, width = (
            (x.size(2 + i) + 2 * p - d * (k - 1) - 1) // s + 1
            for i, (k, s, p, d) in enumerate(zip(*self))
        )
        return height, width


def receptive_field(x: Tensor, window: Window) -> Tensor:
    """Gather the receptive field of every output pixel.

    ``U[n, c, t, ho, wo] = x[n, c, ho * s - p + i * d, wo * s - p + j * d]``
    with tap t = (i, j), and zero outside the image.

    Args:
        x (Tensor): (N, C, H, W).
        window (Window): of the convolution.

    Returns:
        Tensor: U, (N, C, K, Ho, Wo).
    """
    kernel_size, stride, padding, dilation = window
    columns = F.unfold(x, kernel_size, dilation, padding, stride)
    size = window.out_size(x)
    return columns.view(x.size(0), x.size(1), window.taps, *size)


def convolve_each(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window
) -> Tensor:
    """Convolve every channel by K kernels of its own.

    A grouped convolution with groups = C.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (C*K, 1, kh, kw); row ``c * K + t``.
        bias (Tensor | None): (C*K,).
        window (Window): of the convolution.

    Returns:
        Tensor: (N, C*K, Ho, Wo).
    """
    if x.device.type == 'cpu' and x.dtype != torch.float64:
        # PyTorch (seen: 2.13) leaves parts of the bfloat16 gradient of such
        # a weight uninitialised where the channels of x lie last.
        x = x.contiguous()
    _, *geometry = window
    return F.conv2d(x, weight, bias, *geometry, groups=x.size(1))


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


def unspread(z: Tensor, kernel_size: Pair) -> Tensor:
    """Undo :func:`spread`.

    Args:
        z (Tensor): (N, C, Ho * kh, Wo * kw).
        kernel_size (tuple[int, int]): (kh, kw).

    Returns:
        Tensor: (N, C, K, Ho, Wo).
    """
    n, c, height, width = z.shape
    kh, kw = kernel_size
    y = z.view(n, c, height // kh, kh, width // kw, kw)
    return y.permute(0, 1, 3, 5, 2, 4).flatten(2, 3)


def mean_over_taps(x: Tensor, window: Window) -> Tensor:
    """Mean of every receptive field, padding counted as zeros.

    Args:
        x (Tensor): (N, C, H, W).
        window (Window): of the convolution.

    Returns:
        Tensor: (N, C, Ho, Wo), ``receptive_field(x, window).mean(2)``.
    """
    kernel_size, stride, padding, dilation = window
    small = all(2 * p <= k for p, k in zip(padding, kernel_size))
    if dilation == (1, 1) and small:
        return F.avg_pool2d(x, kernel_size, stride, padding)
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    y = F.pad(y, (padding[1], padding[1], padding[0], padding[0]))
    height, width = window.out_size(x)
    rows = _every(stride[0], height, dilation[0], kernel_size[0])
    columns = _every(stride[1], width, dilation[1], kernel_size[1])
    y = sum(y[:, :, part] for part in rows)
    y = sum(y[:, :, :, part] for part in columns)
    return (y / window.taps).to(x.dtype)


def _every(stride: int, length: int, dilation: int, taps: int) -> list[slice]:
    """Where the first, second, ... tap of every window lies."""
    span = stride * (length - 1) + 1
    return [
        slice(dilation * i, dilation * i + span, stride) for i in range(taps)
    ]


def like_input(out: Tensor, x: Tensor) -> Tensor:
    """Lay a result out in memory as a convolution does: as its input lies."""
    if is_transformed():  # vmap does not tell how
        return out
    return out.contiguous(memory_format=layout_of(x))


def layout_of(x: Tensor) -> torch.memory_format:
    """How a convolution lays out what it makes of an input."""
    if x.is_contiguous():
        return torch.contiguous_format
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
