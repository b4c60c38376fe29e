"""RFAConv by the Triton kernels, as an operator.

Two ways to the same sum: the weighted features stay on the chip and meet the
matrix units there (``chip``), or go through memory to a matrix product of
cuBLAS or cuDNN (``memory``). Which one is faster depends on the shape and is
measured, forward and backward apart.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mmrfa.ops import native_reference, triton_launch
from mmrfa.ops.fused import sum_over_taps, sum_over_taps_backward
from mmrfa.ops.native_reference import differentiable
from mmrfa.ops.receptive_field import out_size
from mmrfa.ops.triton_launch import common, is_wide, last_channel
from mmrfa.ops.triton_ops import (
    Ints,
    features,
    features_backward_fake,
    gradients,
    operator,
)

MOST_TAPS = 9  # the window of a position lies in registers
# Programs that share the sum of the weight's gradient, roughly: as many as a
# large GPU has processors, for one fills the registers of such. More of them
# write more partial sums.
SUM_PROGRAMS = 132

chosen: dict[tuple, str] = {}  # the fastest way, by what it depends on


def ways(
    x: Tensor, taps: Tensor, groups: int, unfold: bool
) -> tuple[str, ...]:
    """The ways that an input can take, the one to take unmeasured first."""
    # In float32, cuDNN follows the user's choice of precision.
    narrow = x.dtype.itemsize == 2 or triton_launch.interpreted()
    few = taps.shape[2:].numel() <= MOST_TAPS
    if narrow and few and groups == 1 and not unfold:
        return ('chip', 'memory')
    return ('memory',)


def fastest(choices: dict[str, Callable[[], object]], key: tuple) -> Callable:
    """Measure once for every key which of the calls takes least time.

    The first is taken without measuring where time means nothing: in the
    interpreter, while a CUDA graph is captured, and where the user asked for
    deterministic algorithms. A way that runs out of memory is never taken.
    """
    first = next(iter(choices))
    if (
        len(choices) == 1
        or triton_launch.interpreted()
        or torch.are_deterministic_algorithms_enabled()
    ):
        return choices[first]
    if key not in chosen:
        if torch.cuda.is_current_stream_capturing():
            return choices[first]
        spent = {}
        for name, call in choices.items():
            try:
                spent[name] = triton_launch.device_seconds(call)
            except torch.cuda.OutOfMemoryError:
                spent[name] = float('inf')
        chosen[key] = min(spent, key=spent.get)
    return choices[chosen[key]]


def measured(run: Callable, x: Tensor, taps: Tensor, *rest) -> object:
    """What ``run(way, x, taps, *rest)`` returns, by the fastest way."""
    *_, stride, padding, dilation, groups, unfold = rest
    size = out_size(x, taps.shape[2:], stride, padding, dilation)
    key = (
        *(run.__name__, x.device, x.dtype, layout_of(x), taps.shape),
        *(*stride, *dilation),
        # the order of magnitude, as for tiles
        (x.size(0) * size[0] * size[1]).bit_length(),
    )
    choices = {
        way: lambda way=way: run(way, x, taps, *rest)
        for way in ways(x, taps, groups, unfold)
    }
    with torch.cuda.device_of(x):
        return fastest(choices, key)()


def last_output(taps: Tensor, dtype: torch.dtype) -> Tensor:
    """(O, C, kh, kw) as the kernels read it: (K, C, O)."""
    return taps.to(dtype).flatten(2).permute(2, 1, 0).contiguous()


def layout_of(x: Tensor) -> torch.memory_format:
    """The format that the result takes from the input."""
    if triton_launch.channels_last(x):
        return torch.channels_last
    return torch.contiguous_format


def conv(
    x: Tensor,
    gain: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    unfold: bool,
) -> Tensor:
    """Compute ``native_reference.rf_conv``: features, attention, last sum.

    Args:
        x (Tensor): (N, C, H, W), float32, float16 or bfloat16.
        gain, weight, shift: as in ``triton_ops.features``.
        taps (Tensor): W, (O, C / groups, kh, kw).
        bias (Tensor | None): (O,).
        stride, padding, dilation (list[int]): two each, in pixels.
        groups (int): of the last sum.
        unfold (bool): as in ``triton_ops.features``, and no gain.

    Returns:
        Tensor: (N, O, Ho, Wo), dtype of x, channels last where those of x are.
    """
    rest = (stride, padding, dilation, groups, unfold)
    return measured(_conv, x, taps, gain, weight, shift, bias, *rest)


def _conv(way, x, taps, gain, weight, shift, bias, *rest) -> Tensor:
    *geometry, groups, unfold = list(taps.shape[2:]), *rest
    if way == 'memory':
        y = features(x, gain, weight, shift, *geometry, unfold)
        bias = None if bias is None else bias.to(x.dtype)
        out = sum_over_taps(y, taps.to(x.dtype), bias, groups)
        return out.contiguous(memory_format=layout_of(x))
    last = x.contiguous(memory_format=torch.channels_last)
    outputs = taps.size(0)
    size = out_size(x, *geometry)
    out = x.new_empty(x.size(0), *size, outputs)
    triton_launch.start(
        'conv',
        common(last, *geometry)
        | dict(
            gain=last_channel(gain),
            weight=last_channel(weight),
            shift=last_channel(shift),
            taps=last_output(taps, x.dtype),
            bias=bias,
            out=out,
            count=out[..., 0].numel(),
            OUTPUTS=outputs,
            WIDE=is_wide(last, out),
        ),
    )
    out = out.permute(0, 3, 1, 2)
    return out.contiguous(memory_format=layout_of(x))


def conv_fake(x, gain, weight, shift, taps, bias, *rest) -> Tensor:
    size = out_size(x, taps.shape[2:], *rest[:3])
    return torch.empty(
        (x.size(0), taps.size(0), *size),
        dtype=x.dtype,
        device=x.device,
        memory_format=layout_of(x),
    )


def conv_backward(
    grad: Tensor,
    x: Tensor,
    gain: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    taps: Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    unfold: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gain, weight, shift and taps, from that of the result.

    The features are computed once more. ``chip`` writes the gradient of the
    activations down, K + 1 planes; ``memory`` also the features and theirs.
    """
    rest = (stride, padding, dilation, groups, unfold)
    return measured(_conv_backward, x, taps, gain, weight, shift, grad, *rest)


def _conv_backward(way, x, taps, gain, weight, shift, grad, *rest) -> tuple:
    *geometry, groups, unfold = list(taps.shape[2:]), *rest
    if way == 'memory':
        y = features(x, gain, weight, shift, *geometry, unfold)
        dy, dtaps = sum_over_taps_backward(grad, y, taps.to(x.dtype), groups)
        del y
        found = gradients(x, gain, weight, shift, geometry, unfold, dy)
    else:
        last = x.contiguous(memory_format=torch.channels_last)
        dsum = grad.permute(0, 2, 3, 1).contiguous()
        dtaps = taps_gradient(last, gain, weight, shift, geometry, dsum)
        dtaps = dtaps.view(*taps.shape[2:], *dtaps.shape[1:])
        dtaps = dtaps.permute(3, 2, 0, 1)
        matrix = last_output(taps, x.dtype)
        found = gradients(
            last, gain, weight, shift, geometry, False, dsum, matrix
        )
    dx, *rest = found
    dx = dx.contiguous(memory_format=layout_of(x))
    whole = torch.contiguous_format
    return dx, *rest, dtaps.to(taps.dtype).contiguous(memory_format=whole)


def taps_gradient(x, gain, weight, shift, geometry, dsum: Tensor) -> Tensor:
    """Gradient (K, C, O) of the last sum's weight, float32."""
    taps, channels, outputs = gain.size(1), x.size(1), dsum.size(3)
    count = dsum[..., 0].numel()
    blocks = -(-channels // 32) * -(-outputs // 64)
    span, number = triton_launch.pieces(x, count, SUM_PROGRAMS // blocks)
    sums = dsum.new_empty(number, taps, channels, outputs, dtype=torch.float32)
    triton_launch.start(
        'conv_weight',
        common(x, *geometry)
        | dict(
            gain=last_channel(gain),
            weight=last_channel(weight),
            shift=last_channel(shift),
            grad=dsum,
            sums=sums,
            count=count,
            span=span,
            OUTPUTS=outputs,
            WIDE=is_wide(x, dsum),
        ),
    )
    return sums.sum(0)


def conv_backward_fake(grad, x, gain, weight, shift, taps, *geometry):
    return (
        torch.empty_like(x, memory_format=layout_of(x)),
        *features_backward_fake(grad, x, gain, weight, shift)[1:],
        taps.new_empty(taps.shape),
    )


def _context(ctx, inputs, output) -> None:
    x, gain, weight, shift, taps, bias, *ctx.geometry = inputs
    ctx.save_for_backward(x, gain, weight, shift, taps, bias)


def _gradients(ctx, grad: Tensor):
    *inputs, bias = ctx.saved_tensors
    if torch.is_grad_enabled():
        *geometry, groups, unfold = ctx.geometry
        plain = (*inputs, bias, None, None, *geometry, groups, unfold)
        found = differentiable(native_reference.rf_conv, plain, grad)
        return *found[:6], *[None] * 5
    dx, dgain, *found = rf_conv_backward(grad, *inputs, *ctx.geometry)
    dgain = None if inputs[1] is None else dgain
    dbias = None
    if bias is not None:
        dbias = grad.sum((0, 2, 3), dtype=torch.float32).to(bias.dtype)
    return dx, dgain, *found, dbias, *[None] * 5


rf_conv = operator(conv, conv_fake, _gradients, _context)
rf_conv_backward = operator(conv_backward, conv_backward_fake)
