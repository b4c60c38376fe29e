"""Over all positions: products of values and receptive fields."""

from functools import partial

import triton.language as tl

from mmrfa.ops.primitives.gpu.kernels.parts import (
    load_field,
    load_pixel,
    own_channels,
    plane_offset,
    split_position,
)
from mmrfa.ops.primitives.gpu.kernels.tiles import tiled

MOST_SUMS = 60  # accumulators of a thread beyond 9 taps


def rows_of(taps: int) -> int:
    """How many of the K values of t a program does."""
    return taps if taps <= 9 else max(1, MOST_SUMS // (taps + 1))


def _sums(
    z,
    x,
    centre,
    doubted,
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
    zn,
    zc,
    zt,
    zh,
    zw,
    CHANNELS: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    FROM_X: tl.constexpr,
    EXACT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Partial sums over ``span`` positions of ``z[t] * U[s]`` and ``z[t]``.

    With FROM_X both are U less ``centre``. ``sums`` is (splits, K, K + 1, C);
    a program does ROWS of the K values of t. With EXACT in float64, and zeros
    where none of the channels of a program is ``doubted``.
    """
    TAPS: tl.constexpr = KH * KW
    NUMBER: tl.constexpr = tl.float64 if EXACT else tl.float32
    c, there = own_channels(CHANNELS, BLOCK_C, WIDE)
    start = tl.program_id(0) * span
    row = tl.program_id(2) * ROWS
    total = ()
    for _t in tl.static_range(ROWS * (TAPS + 1)):
        total = total + (tl.zeros((BLOCK_P, BLOCK_C), NUMBER),)
    if FROM_X:
        middle = tl.load(centre + c, mask=there, other=0).to(NUMBER)
    end = tl.minimum(start + span, count)
    if EXACT:
        asked = tl.max(tl.load(doubted + c, mask=there, other=0))
        end = tl.where(asked > 0, end, start)
    for first in range(start, end, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)[:, None]
        ok = p < end
        n, ho, wo = split_position(p, out_height, out_width, WIDE)
        mask = ok & there
        plain = load_field(
            x, n, ho, wo, c, ok, there, height, width, xn, xc, xh, xw,
            KH, KW, SH, SW, PH, PW, DH, DW,
        )  # fmt: skip
        if FROM_X:
            field = ()
            for s in tl.static_range(TAPS):
                # zero past the end, not minus the centre
                field = field + (tl.where(mask, plain[s] - middle, 0.0),)
        else:
            field = plain
            place = n * zn + ho * zh + wo * zw
            pointers = z + place + c * zc
        moved = ()
        for r in tl.static_range(ROWS):
            t = row + r
            if not FROM_X:
                value = tl.load(
                    pointers + plane_offset(t, zt, WIDE),
                    mask=mask & (t < TAPS),
                    other=0,
                ).to(tl.float32)
            elif ROWS == TAPS:
                value = field[r]
            else:
                value = load_pixel(
                    x, n,
                    ho * SH - PH + t // KW * DH,
                    wo * SW - PW + t % KW * DW,
                    c, ok, there, height, width, xn, xc, xh, xw,
                )  # fmt: skip
                value = tl.where(mask, value - middle, 0.0)
            for s in tl.static_range(TAPS):
                moved = moved + (total[r * (TAPS + 1) + s] + value * field[s],)
            moved = moved + (total[r * (TAPS + 1) + TAPS] + value,)
        total = moved
    for r in tl.static_range(ROWS):
        t = row + r
        place = (tl.program_id(0) * TAPS + t) * (TAPS + 1)
        rows = sums + place * CHANNELS + c
        for s in tl.static_range(TAPS + 1):
            value = tl.sum(total[r * (TAPS + 1) + s], 0, keep_dims=True)
            tl.store(rows + s * CHANNELS, value, mask=there & (t < TAPS))


_by_rows = partial(tiled, axes=(('CHANNELS', 'BLOCK_C'), ('TAPS', 'ROWS')))
outer_sums = _by_rows(
    last={9: [(4, 32, 4), (8, 32, 8)], 49: [(4, 32, 4)]},
    first={
        9: [(128, 1, 4), (256, 1, 8), (16, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    constants=lambda taps: dict(ROWS=rows_of(taps)),
)(_sums)
# With EXACT. What is measured of it depends on how many channels are doubted.
exact_sums = _by_rows(
    last={9: [(4, 32, 4)], 49: [(4, 32, 4)]},
    first={9: [(128, 1, 4)], 49: [(128, 1, 4)]},
    constants=lambda taps: dict(ROWS=1),
)(_sums)
