"""Mean and covariance of the receptive fields, by the Triton kernels."""

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window, like_input
from mmrfa.ops.primitives.gpu import launch
from mmrfa.ops.primitives.gpu.features import MOST_PROGRAMS, columns
from mmrfa.ops.primitives.gpu.launch import (
    common,
    is_wide,
    last_channel,
    pieces,
    strides,
)
from mmrfa.ops.primitives.gpu.rules import check

Ints = list[int]  # two, in pixels


def rf_moments(
    x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> tuple[Tensor, Tensor]:
    """``mmrfa::rf_moments`` on CUDA.

    Products are summed in float32, of values less the mean of their channel:
    then little cancels when the mean of the field is taken off.
    """
    window = Window(kernel, stride, padding, dilation)
    check(x, window)
    taps = window.taps
    arguments = common(x, window)
    outputs = x.size(0) * arguments['out_height'] * arguments['out_width']
    span, number = pieces(x, outputs, MOST_PROGRAMS // columns(x))
    seen = x[(..., *_seen_by_one_tap(x, window))]
    centre = seen.sum((0, 2, 3), dtype=torch.float32)
    centre = centre / max(1, seen[:, 0].numel())
    sums = x.new_empty(number, taps, taps + 1, x.size(1), dtype=torch.float32)
    launch.start(
        'outer_sums',
        arguments
        | dict(
            z=None,
            **strides('z', None),
            centre=centre,
            sums=sums,
            count=outputs,
            span=span,
            FROM_X=True,
            WIDE=is_wide(x),
        ),
    )
    sums = sums.sum(0, dtype=torch.float64).movedim(2, 0).contiguous()
    sums = sums / max(1, outputs)
    shift = sums[:, :, taps]
    covariance = sums[:, :, :taps] - shift.unsqueeze(2) * shift.unsqueeze(1)
    mean = centre.double().unsqueeze(1) + shift
    return mean, covariance.contiguous()


def _seen_by_one_tap(x: Tensor, window: Window) -> list[slice]:
    """Rows and columns of x, none that no window samples.

    A value there, be it NaN, has no part in the statistics.
    """
    found = []
    sizes = zip(*window, x.shape[2:], window.out_size(x))
    for kernel, stride, padding, dilation, length, windows in sizes:
        ranges = []
        for tap in range(kernel):
            place = tap * dilation - padding  # in the first window
            first = place % stride if place < 0 else place
            end = min(length, place + (windows - 1) * stride + 1)
            ranges.append(range(first, max(first, end), stride))
        most = max(ranges, key=len)
        found.append(slice(most.start, most.stop, most.step))
    return found


def rf_moments_backward(
    mean: Tensor,
    covariance: Tensor,
    x: Tensor,
    batch_mean: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> Tensor:
    """``mmrfa::rf_moments_backward`` on CUDA.

    Each value of the field counts in both factors of the covariance.
    """
    window = Window(kernel, stride, padding, dilation)
    taps = window.taps
    square = (x.size(1), taps, taps)
    check(
        x,
        window,
        mean=(mean, square[:2], [torch.float64]),
        covariance=(covariance, square, [torch.float64]),
        batch_mean=(batch_mean, square[:2], [torch.float64]),
    )
    arguments = common(x, window)
    outputs = x.size(0) * arguments['out_height'] * arguments['out_width']
    outputs = max(1, outputs)
    weight = (covariance + covariance.transpose(1, 2)) / outputs
    centre = batch_mean.mean(1, keepdim=True)
    constant = ((batch_mean - centre).unsqueeze(1) @ weight).squeeze(1)
    constant = mean / outputs - constant
    dx = like_input(x.new_empty(x.shape), x)
    launch.start(
        'input_gradient',
        arguments
        | dict(
            z=None,
            **strides('z', None),
            weight=last_channel(weight.float()),
            vector=last_channel(torch.cat((constant, centre), 1).float()),
            dx=dx,
            **strides('d', dx),
            count=x.size(0) * x.size(2) * x.size(3),
            FROM_X=True,
            ATTEND=False,
            UNFOLD=False,
            WIDE=is_wide(x),
        ),
    )
    return dx
