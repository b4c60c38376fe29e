"""Features reduced at once, by the Triton kernels and stock reductions."""

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives.gpu.features import Features, gradients, weighted
from mmrfa.ops.primitives.gpu.launch import planes
from mmrfa.ops.primitives.gpu.rules import LEARNED, check

Ints = list[int]  # two, in pixels


def rf_channel_pool(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> tuple[Tensor, Tensor, Tensor]:
    """``mmrfa::rf_channel_pool`` on CUDA."""
    of = _checked(x, weight, shift, kernel, stride, padding, dilation)
    y = weighted(of)
    maximum, argument = y.max(1)
    mean = y.mean(1, dtype=torch.float32)
    return (
        maximum.float().contiguous(),
        mean.contiguous(),
        argument.int().contiguous(),
    )


def rf_channel_pool_backward(
    maximum: Tensor,
    mean: Tensor,
    argument: Tensor,
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> tuple[Tensor, Tensor, Tensor]:
    """``mmrfa::rf_channel_pool_backward`` on CUDA."""
    of = _checked(x, weight, shift, kernel, stride, padding, dilation)
    window = of.window
    shape = (x.size(0), window.taps, *window.out_size(x))
    check(
        x,
        window,
        maximum=(maximum, shape),
        mean=(mean, shape),
        argument=(argument, shape, [torch.int32]),
    )
    mean = mean.unsqueeze(1) / x.size(1)
    grad = planes(x, window.taps, window)
    grad.copy_(mean)
    largest = (maximum.unsqueeze(1) + mean).to(x.dtype)
    grad.scatter_(1, argument.unsqueeze(1).long(), largest)
    return _without_gain(of, grad)


def rf_line_pool(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> tuple[Tensor, Tensor]:
    """``mmrfa::rf_line_pool`` on CUDA."""
    of = _checked(x, weight, shift, kernel, stride, padding, dilation)
    grid = weighted(of).unflatten(2, tuple(kernel))
    lines = grid.mean((3, 5), dtype=torch.float32)
    columns = grid.mean((2, 4), dtype=torch.float32)
    return lines.contiguous(), columns.contiguous()


def rf_line_pool_backward(
    lines: Tensor,
    columns: Tensor,
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> tuple[Tensor, Tensor, Tensor]:
    """``mmrfa::rf_line_pool_backward`` on CUDA."""
    of = _checked(x, weight, shift, kernel, stride, padding, dilation)
    height, width = of.window.out_size(x)
    kh, kw = kernel
    check(
        x,
        of.window,
        lines=(lines, (*x.shape[:2], kh, height)),
        columns=(columns, (*x.shape[:2], kw, width)),
    )
    grad = planes(x, of.window.taps, of.window)
    torch.add(
        lines[:, :, :, None, :, None] / (kw * width),
        columns[:, :, None, :, None, :] / (kh * height),
        out=grad.unflatten(2, (kh, kw)),
    )
    return _without_gain(of, grad)


def _checked(x: Tensor, weight: Tensor, shift: Tensor, *window) -> Features:
    window = Window(*window)
    taps = x.size(1), window.taps
    check(
        x,
        window,
        weight=(weight, (*taps, window.taps), LEARNED),
        shift=(shift, taps, LEARNED),
    )
    return Features(x, weight, shift, window)


def _without_gain(of: Features, grad: Tensor) -> tuple[Tensor, ...]:
    dx, _, dweight, dshift = gradients(of, grad)
    return dx, dweight, dshift
