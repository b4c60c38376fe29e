"""Features, their weighing and the last sum, by the Triton kernels.

Two ways to the same sum: the weighted features stay on the chip and meet the
matrix units there (``chip``), or go through memory to a matrix product of
cuBLAS or cuDNN (``memory``). Which one is faster depends on the shape and is
measured, forward and backward apart.
"""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from mmrfa.ops.common.taps import (
    Conv,
    sum_over_taps,
    sum_over_taps_backward,
)
from mmrfa.ops.common.window import Window, like_input
from mmrfa.ops.primitives.gpu import launch
from mmrfa.ops.primitives.gpu.features import Features, gradients, weighted
from mmrfa.ops.primitives.gpu.launch import common, is_wide, last_channel
from mmrfa.ops.primitives.gpu.rules import LEARNED, check, require

Ints = list[int]  # two, in pixels
MOST_TAPS = 9  # the window of a position lies in registers
# Programs that share the sum of the weight's gradient, roughly: as many as a
# large GPU has processors, for one fills the registers of such. More of them
# write more partial sums.
SUM_PROGRAMS = 132

chosen: dict[tuple, str] = {}  # the fastest way, by what it depends on


def rf_conv(
    x: Tensor,
    gain: Tensor | None,
    feature_weight: Tensor,
    feature_shift: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_gate: Tensor | None,
    position_gate: Tensor | None,
    row_gate: Tensor | None,
    column_gate: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    unfold: bool,
) -> Tensor:
    """``mmrfa::rf_conv`` on CUDA."""
    window = Window(weight.shape[2:], stride, padding, dilation)
    of = Features(x, feature_weight, feature_shift, window, gain, unfold)
    gates = channel_gate, position_gate, row_gate, column_gate
    conv = Conv(weight, bias, groups)
    _check(of, conv, gates)
    return _measured(_forward, of, conv, _factors(gates, window))


def rf_conv_backward(
    grad: Tensor,
    x: Tensor,
    gain: Tensor | None,
    feature_weight: Tensor,
    feature_shift: Tensor,
    weight: Tensor,
    channel_gate: Tensor | None,
    position_gate: Tensor | None,
    row_gate: Tensor | None,
    column_gate: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    unfold: bool,
) -> tuple[Tensor, ...]:
    """``mmrfa::rf_conv_backward`` on CUDA.

    The features are computed once more. ``chip`` writes the gradient of the
    activations down, K + 1 planes; ``memory`` also the features and theirs.
    """
    window = Window(weight.shape[2:], stride, padding, dilation)
    of = Features(x, feature_weight, feature_shift, window, gain, unfold)
    gates = channel_gate, position_gate, row_gate, column_gate
    conv = Conv(weight, None, groups)
    _check(of, conv, gates, grad)
    factors = _factors(gates, window)
    dx, dgain, dfeature, dshift, dweight, dfactors = _measured(
        _backward, of, conv, factors, grad
    )
    dgates = iter(dfactors)
    return (
        dx,
        x.new_empty(0) if gain is None else dgain,
        dfeature,
        dshift,
        dweight,
        *(
            x.new_empty(0) if gate is None else next(dgates).view(gate.shape)
            for gate in gates
        ),
    )


def _check(
    of: Features, conv: Conv, gates: tuple, grad: Tensor | None = None
) -> None:
    x, _, _, window, gain, unfold = of
    weight, bias, groups = conv
    check(x, window)
    images, channels = x.shape[:2]
    require(
        groups > 0 and channels % groups == weight.size(0) % groups == 0,
        'groups that divide the channels',
        groups,
    )
    channel, position, row, column = gates
    pairs = (channel is None) == (position is None)
    pairs = pairs and (row is None) == (column is None)
    require(pairs, 'both gates of a pair or none', 'one')
    weighers = gain is not None, unfold, channel is not None, row is not None
    require(
        sum(weighers) < 2,
        'no gain with unfold, and gates of one pair without both',
        'more',
    )
    taps = channels, window.taps
    size = window.out_size(x)
    kh, kw = window.kernel_size
    either = [torch.float32, x.dtype]
    check(
        x,
        window,
        gain=(gain, taps),
        feature_weight=(of.weight, (*taps, window.taps), LEARNED),
        feature_shift=(of.shift, taps, LEARNED),
        weight=(
            weight,
            (weight.size(0), channels // groups, kh, kw),
            either,
        ),
        bias=(bias, weight.shape[:1], either),
        channel_gate=(channel, (images, channels)),
        position_gate=(position, (images, window.taps, *size)),
        row_gate=(row, (images, channels, kh, size[0])),
        column_gate=(column, (images, channels, kw, size[1])),
        grad=(grad, (images, weight.size(0), *size), [x.dtype]),
    )


# Gates ----------------------------------------------------------------------


def _factors(gates: tuple, window: Window) -> list[Tensor]:
    """Those that are there, as they meet (N, C, kh, kw, Ho, Wo)."""
    channel, position, row, column = gates
    found = []
    if channel is not None:
        found.append(channel[:, :, None, None, None, None])
    if position is not None:
        grid = position.unflatten(1, tuple(window.kernel_size))
        found.append(grid.unsqueeze(1))
    if row is not None:
        found.append(row[:, :, :, None, :, None])
    if column is not None:
        found.append(column[:, :, None, :, None, :])
    return found


def _gated(y: Tensor, factors: list[Tensor], window: Window) -> Tensor:
    """Multiply y (N, C, K, Ho, Wo) by the gates, in place."""
    grid = y.unflatten(2, tuple(window.kernel_size))
    for factor in factors:
        grid.mul_(factor)
    return y


def _gate_gradients(
    product: Tensor, factors: list[Tensor], window: Window
) -> list[Tensor]:
    """Gradients of the gates, float32 without gaps.

    Args:
        product (Tensor): the features times the gradient of the gated ones.
    """
    grid = product.unflatten(2, tuple(window.kernel_size))
    found = []
    for i, factor in enumerate(factors):
        part = grid
        for other in factors[:i] + factors[i + 1 :]:
            part = part * other.to(part.dtype)
        shared = [d for d, size in enumerate(factor.shape) if size == 1]
        part = part.sum(shared, dtype=torch.float32)
        found.append(part.contiguous())
    return found


# The two ways ---------------------------------------------------------------


def ways(of: Features, conv: Conv) -> tuple[str, ...]:
    """The ways that an input can take, the one to take unmeasured first."""
    # In float32, cuDNN follows the user's choice of precision.
    narrow = of.x.dtype.itemsize == 2 or launch.interpreted()
    few = of.window.taps <= MOST_TAPS
    if of.gain is not None and narrow and few and conv.groups == 1:
        return ('chip', 'memory')
    return ('memory',)


def fastest(choices: dict[str, Callable[[], object]], key: tuple) -> Callable:
    """Measure once for every key which of the calls takes least time.

    The first is taken without measuring where time means nothing: in the
    interpreter, where the user asked for deterministic algorithms, and, if its
    kernels are tuned, while a CUDA graph is captured. A way that runs out of
    memory is never taken.
    """
    first = next(iter(choices))
    if (
        len(choices) == 1
        or launch.interpreted()
        or torch.are_deterministic_algorithms_enabled()
    ):
        return choices[first]
    if key not in chosen:
        if torch.cuda.is_current_stream_capturing():
            return choices[first]
        spent = {}
        for name, call in choices.items():
            try:
                spent[name] = launch.device_seconds(call)
            except torch.cuda.OutOfMemoryError:
                spent[name] = float('inf')
        chosen[key] = min(spent, key=spent.get)
    return choices[chosen[key]]


def _measured(
    run: Callable, of: Features, conv: Conv, factors: list[Tensor], *rest
) -> object:
    """What ``run(way, of, conv, factors, *rest)`` returns, by the fastest."""
    x, window = of.x, of.window
    key = (
        *(run.__name__, x.device, x.dtype, launch.channels_last(x)),
        *(conv.weight.shape, *window.stride, *window.dilation),
        # the order of magnitude, as for tiles
        (x.size(0) * prod(window.out_size(x))).bit_length(),
    )
    choices = {
        way: lambda way=way: run(way, of, conv, factors, *rest)
        for way in ways(of, conv)
    }
    with torch.cuda.device_of(x):
        return fastest(choices, key)()


def _forward(
    way: str, of: Features, conv: Conv, factors: list[Tensor]
) -> Tensor:
    x, window = of.x, of.window
    if way == 'memory':
        y = _gated(weighted(of), factors, window)
        bias = None if conv.bias is None else conv.bias.to(x.dtype)
        weight = conv.weight.to(x.dtype)
        out = sum_over_taps(y, Conv(weight, bias, conv.groups))
        return like_input(out, x)
    last = x.contiguous(memory_format=torch.channels_last)
    out = x.new_empty(x.size(0), *window.out_size(x), conv.weight.size(0))
    arguments = _last(of) | dict(
        taps=_matrix(conv.weight, x.dtype),
        bias=conv.bias,
        out=out,
        count=out[..., 0].numel(),
        OUTPUTS=out.size(3),
        WIDE=is_wide(last, out),
    )
    launch.start('conv', common(last, window) | arguments)
    return like_input(out.permute(0, 3, 1, 2), x)


def _backward(
    way: str, of: Features, conv: Conv, factors: list[Tensor], grad: Tensor
) -> tuple:
    x, window = of.x, of.window
    dfactors = []
    if way == 'memory':
        y = weighted(of)
        weight = conv.weight.to(x.dtype)
        if factors:
            gated = _gated(y.clone(), factors, window)
            dy, dweight = sum_over_taps_backward(
                grad, gated, weight, conv.groups
            )
            del gated
            dfactors = _gate_gradients(y.mul_(dy), factors, window)
            dy = _gated(dy, factors, window)
        else:
            dy, dweight = sum_over_taps_backward(grad, y, weight, conv.groups)
        del y
        found = gradients(of, dy)
    else:
        of = of._replace(x=x.contiguous(memory_format=torch.channels_last))
        dsum = grad.permute(0, 2, 3, 1).contiguous()
        dweight = _weight_gradient(of, dsum)
        dweight = dweight.permute(2, 1, 0).view(conv.weight.shape)
        found = gradients(of, dsum, _matrix(conv.weight, x.dtype))
    dx, *found = found
    dweight = dweight.to(conv.weight.dtype).contiguous()
    return like_input(dx, x), *found, dweight, dfactors


def _matrix(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(O, C, kh, kw) as the kernels read it: (K, C, O)."""
    return weight.to(dtype).flatten(2).permute(2, 1, 0).contiguous()


def _last(of: Features) -> dict[str, Tensor]:
    """Vectors of the channels as the kernels read them."""
    vectors = dict(gain=of.gain, weight=of.weight, shift=of.shift)
    return {name: last_channel(value) for name, value in vectors.items()}


def _weight_gradient(of: Features, dsum: Tensor) -> Tensor:
    """Gradient (K, C, O) of the last sum's weight, float32."""
    x, taps = of.x, of.window.taps
    channels, outputs = x.size(1), dsum.size(3)
    count = dsum[..., 0].numel()
    blocks = -(-channels // 32) * -(-outputs // 64)
    span, number = launch.pieces(x, count, SUM_PROGRAMS // blocks)
    sums = dsum.new_empty(number, taps, channels, outputs, dtype=torch.float32)
    arguments = _last(of) | dict(
        grad=dsum,
        sums=sums,
        count=count,
        span=span,
        OUTPUTS=outputs,
        WIDE=is_wide(x, dsum),
    )
    launch.start('conv_weight', common(x, of.window) | arguments)
    return sums.sum(0)
