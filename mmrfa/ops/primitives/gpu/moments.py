"""Mean and covariance of the receptive fields, by the Triton kernels."""

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window, layout_of
from mmrfa.ops.primitives.gpu import launch
from mmrfa.ops.primitives.gpu.features import MOST_PROGRAMS, columns
from mmrfa.ops.primitives.gpu.launch import (
    common,
    is_wide,
    last_channel,
    pieces,
    strides,
)
from mmrfa.ops.primitives.gpu.rules import LEARNED, check
from mmrfa.ops.primitives.rf_moments import blank, seen_taps, unsure

Ints = list[int]  # two, in pixels
# Programs that share a sum in float64: of most channels there is none.
EXACT_PROGRAMS = 256


def rf_moments(
    x: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> tuple[Tensor, Tensor]:
    """``mmrfa::rf_moments`` on CUDA.

    Products are summed in float32, of values less the mean of their channel:
    then little cancels when the mean of the field is taken off.
    """
    window = Window(kernel, stride, padding, dilation)
    check(x, window)
    return _moments(x, window, _centre(x, window))


def rf_exact_moments(
    x: Tensor,
    weight: Tensor,
    eps: float,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> tuple[Tensor, Tensor]:
    """``mmrfa::rf_exact_moments`` on CUDA.

    The host never waits to hear which channels are summed again: that the
    kernel finds out. So it can run ahead, and a CUDA graph can be captured.
    """
    window = Window(kernel, stride, padding, dilation)
    square = x.size(1), window.taps, window.taps
    check(x, window, weight=(weight, square, LEARNED))
    centre, seen = _centre(x, window), seen_taps(x, window)
    mean, covariance = _moments(x, window, centre)
    if any(seen):
        doubted = unsure(mean, covariance, weight, eps, seen)
        exact = _moments(x, window, centre, doubted.int())
        mean = torch.where(doubted[:, None], exact[0], mean)
        covariance = torch.where(doubted[:, None, None], exact[1], covariance)
    blank(mean, covariance, seen)
    return mean, covariance


def _centre(x: Tensor, window: Window) -> Tensor:
    """(C,), near the mean of what the windows see."""
    seen = x[(..., *_seen_by_one_tap(x, window))]
    centre = seen.sum((0, 2, 3), dtype=torch.float32)
    return centre / max(1, seen[:, 0].numel())


def _moments(
    x: Tensor, window: Window, centre: Tensor, doubted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and covariance; with ``doubted`` (C,) theirs alone, in float64."""
    taps = window.taps
    arguments = common(x, window)
    outputs = x.size(0) * arguments['out_height'] * arguments['out_width']
    exact = doubted is not None
    programs = EXACT_PROGRAMS if exact else MOST_PROGRAMS
    span, number = pieces(x, outputs, programs // columns(x))
    sums = x.new_empty(
        (number, taps, taps + 1, x.size(1)),
        dtype=torch.float64 if exact else torch.float32,
    )
    launch.start(
        'exact_sums' if exact else 'outer_sums',
        arguments
        | dict(
            z=None,
            **strides('z', None),
            centre=centre,
            doubted=doubted,
            sums=sums,
            count=outputs,
            span=span,
            FROM_X=True,
            EXACT=exact,
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
    dx = torch.empty_like(x, memory_format=layout_of(x))
    launch.start(
        'input_gradient',
        arguments
        | dict(
            z=None,
            **strides('z', None),
            weight=last_channel(weight),
            vector=last_channel(torch.cat((constant, centre), 1)),
            dx=dx,
            **strides('d', dx),
            count=x.size(0) * x.size(2) * x.size(3),
            FROM_X=True,
            ATTEND=False,
            UNFOLD=False,
            WIDE=is_wide(x, dx),
        ),
    )
    return dx
