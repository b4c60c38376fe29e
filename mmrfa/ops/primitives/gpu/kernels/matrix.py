"""RFAConv whose features never leave the chip.

Channels last only; matrix products run on the matrix units. The weight W of
the last sum lies as (K, C, O), in the type of x.
"""

import triton
import triton.language as tl

from mmrfa.ops.primitives.gpu.kernels.parts import (
    activation_of,
    add_product,
    attention_of,
    load_field,
    mean_of,
    softmax_of,
    split_position,
)
from mmrfa.ops.primitives.gpu.kernels.pointwise import features_backward
from mmrfa.ops.primitives.gpu.kernels.tiles import tiled


@triton.jit
def _row(c, CHANNELS: tl.constexpr, WIDE: tl.constexpr):
    """Channels, four to a thread, and which of them exist.

    With more of them a thread has too few positions for each weight it loads,
    with fewer it spends its time on addresses.
    """
    c = tl.max_contiguous(c[None, :], [1, 4])
    there = c < CHANNELS
    if WIDE:
        c = c.to(tl.int64)
    return c, there


@triton.jit
def _weighted(
    field,
    weights,
    shifts,
    gains,
    t,
    mean,
    top,
    scale,
    there,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
):
    """A feature, weighted by its attention."""
    value = activation_of(field, weights, shifts, t, there, CHANNELS, TAPS)
    value = tl.where(value <= 0, 0.0, value)  # NaN stays
    return value * attention_of(gains, t, mean, top, scale, there, CHANNELS)


@tiled(
    last={
        9: [
            (64, 32, 8, 64),
            (64, 32, 8, 128),
            (64, 32, 8, 256),
            (128, 16, 8, 128),
            (32, 32, 4, 64),
        ],
    },
    plain_only={(64, 32, 8, 256), (128, 16, 8, 128)},
    axes=(('OUTPUTS', 'BLOCK_O'),),
)
def conv(
    x,
    gain,
    weight,
    shift,
    taps,
    bias,
    out,
    count,
    bits,
    height,
    width,
    out_height,
    out_width,
    xn,
    xc,
    xh,
    xw,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Features, weighted by attention, and their sum at once.

    ``out[p, o] = bias[o] + sum_t,c taps[t, c, o] * y[p, t, c]``, with ``y`` as
    ``features`` writes it. (positions, O) has no gaps.
    """
    TAPS: tl.constexpr = KH * KW
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    ok = p < count
    n, ho, wo = split_position(p, out_height, out_width, WIDE)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)[None, :]
    total = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for first in range(0, CHANNELS, BLOCK_C):
        c, there = _row(first + tl.arange(0, BLOCK_C), CHANNELS, WIDE)
        field = load_field(
            x, n, ho, wo, c, ok, there, height, width, xn, xc, xh, xw,
            KH, KW, SH, SW, PH, PW, DH, DW,
        )  # fmt: skip
        mean = mean_of(field, TAPS)
        top, scale = softmax_of(gain + c, mean, there, CHANNELS, TAPS)
        column = first + tl.arange(0, BLOCK_C)[:, None]
        factors = taps + column * OUTPUTS + o
        mask = (column < CHANNELS) & (o < OUTPUTS)
        for t in range(TAPS):
            value = _weighted(
                field, weight + c, shift + c, gain + c, t, mean, top, scale,
                there, CHANNELS, TAPS,
            )  # fmt: skip
            factor = tl.load(
                factors + t * CHANNELS * OUTPUTS, mask=mask, other=0
            )
            total = add_product(value.to(factor.dtype), factor, total)
    if bias is not None:
        total += tl.load(bias + o, mask=o < OUTPUTS, other=0).to(tl.float32)
    if WIDE:
        p = p.to(tl.int64)
    tl.store(out + p * OUTPUTS + o, total, mask=ok & (o < OUTPUTS))


@tiled(
    last={9: [(32, 32, 8, 64), (64, 16, 8, 64), (32, 16, 8, 128)]},
    plain_only={(32, 32, 8, 64)},
    axes=(('CHANNELS', 'BLOCK_C'), ('OUTPUTS', 'BLOCK_O')),
)
def conv_weight(
    x,
    gain,
    weight,
    shift,
    grad,
    sums,
    count,
    bits,
    span,
    height,
    width,
    out_height,
    out_width,
    xn,
    xc,
    xh,
    xw,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Partial sums (splits, K, C, O) of the gradient of ``taps``.

    ``grad`` is that of ``out``; a program sums over ``span`` positions.
    """
    TAPS: tl.constexpr = KH * KW
    place = tl.program_id(1) * BLOCK_C
    c, there = _row(place + tl.arange(0, BLOCK_C), CHANNELS, WIDE)
    o = tl.program_id(2) * BLOCK_O + tl.arange(0, BLOCK_O)[None, :]
    start = tl.program_id(0) * span
    end = tl.minimum(start + span, count)
    total = ()
    for _t in tl.static_range(TAPS):
        total = total + (tl.zeros((BLOCK_C, BLOCK_O), tl.float32),)
    for first in range(start, end, BLOCK_P):
        # Without it the compiler loads all weights before the loop: too many.
        tl.debug_barrier()
        p = first + tl.arange(0, BLOCK_P)[:, None]
        ok = p < end
        n, ho, wo = split_position(p, out_height, out_width, WIDE)
        field = load_field(
            x, n, ho, wo, c, ok, there, height, width, xn, xc, xh, xw,
            KH, KW, SH, SW, PH, PW, DH, DW,
        )  # fmt: skip
        mean = mean_of(field, TAPS)
        top, scale = softmax_of(gain + c, mean, there, CHANNELS, TAPS)
        if WIDE:
            p = p.to(tl.int64)
        dsum = tl.load(
            grad + p * OUTPUTS + o, mask=ok & (o < OUTPUTS), other=0
        )
        moved = ()
        for t in tl.static_range(TAPS):
            value = _weighted(
                field, weight + c, shift + c, gain + c, t, mean, top, scale,
                there, CHANNELS, TAPS,
            )  # fmt: skip
            value = tl.trans(value.to(dsum.dtype))
            moved = moved + (add_product(value, dsum, total[t]),)
        total = moved
    column = place + tl.arange(0, BLOCK_C)[:, None]
    mask = (column < CHANNELS) & (o < OUTPUTS)
    for t in tl.static_range(TAPS):
        row = (tl.program_id(0) * TAPS + t) * CHANNELS
        tl.store(sums + (row + column) * OUTPUTS + o, total[t], mask=mask)


# With OUTPUTS: matrix products want other tiles.
conv_input = features_backward._replace(
    last={9: [(32, 32, 8, 64), (32, 32, 8, 128), (32, 16, 4, 64)]},
    first=None,
)
