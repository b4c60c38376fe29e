"""Per pixel: the gradient of the input, gathered from its windows."""

import triton.language as tl

from mmrfa.ops.primitives.gpu.kernels.parts import (
    load_pixel,
    own_channels,
    plane_offset,
    split_position,
)
from mmrfa.ops.primitives.gpu.kernels.tiles import tiled


@tiled(
    last={9: [(32, 64, 4), (32, 64, 8), (16, 32, 4)], 49: [(16, 64, 4)]},
    first={
        9: [(512, 1, 4), (256, 1, 4), (64, 8, 4)],
        49: [(256, 1, 4), (64, 8, 4)],
    },
    plain_only={(32, 64, 4)},
)
def input_gradient(
    z,
    x,
    weight,
    vector,
    dx,
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
    dn,
    dc,
    dh,
    dw,
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
    ATTEND: tl.constexpr,
    UNFOLD: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gather over the windows that a pixel lies in, as tap s of each.

    ``dx = sum_s (sum_t weight[t, s] z[t] + z[K])``, z at the window; z[K + s]
    with UNFOLD, and no such plane without UNFOLD and ATTEND. With FROM_X,
    z[t] is the window itself less ``vector[K]``, and ``vector[s]`` stands for
    z[K].
    """
    TAPS: tl.constexpr = KH * KW
    c, there = own_channels(CHANNELS, BLOCK_C, WIDE)
    weights = weight + c
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    ok = p < count
    n, h, w = split_position(p, height, width, WIDE)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    if FROM_X:
        centre = tl.load(vector + TAPS * CHANNELS + c, mask=there, other=0)
    # Not unrolled: with all loads at once the registers would not do.
    for s in range(TAPS):
        top = h + PH - s // KW * DH
        left = w + PW - s % KW * DW
        ho = top // SH
        wo = left // SW
        window = ok & (top >= 0) & (left >= 0)
        window = window & (ho < out_height) & (wo < out_width)
        if SH > 1:
            window = window & (top % SH == 0)
        if SW > 1:
            window = window & (left % SW == 0)
        mask = window & there
        part = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        if FROM_X:
            part += tl.load(vector + s * CHANNELS + c, mask=there, other=0)
        else:
            pointers = z + (n * zn + ho * zh + wo * zw) + c * zc
            if ATTEND:
                all_taps = pointers + plane_offset(TAPS, zt, WIDE)
                part += tl.load(all_taps, mask=mask, other=0)
            if UNFOLD:
                direct = pointers + plane_offset(TAPS + s, zt, WIDE)
                part += tl.load(direct, mask=mask, other=0)
        for i in range(KH):
            for j in tl.static_range(KW):
                t = i * KW + j
                if FROM_X:
                    value = load_pixel(
                        x, n,
                        ho * SH - PH + i * DH,
                        wo * SW - PW + j * DW,
                        c, window, there, height, width, xn, xc, xh, xw,
                    )  # fmt: skip
                    value -= centre
                else:
                    place = pointers + plane_offset(t, zt, WIDE)
                    value = tl.load(place, mask=mask, other=0)
                    value = value.to(tl.float32)
                factors = weights + (t * TAPS + s) * CHANNELS
                part += value * tl.load(factors, mask=there, other=0)
        total += tl.where(mask, part, 0.0)
    place = n * dn + h * dh + w * dw
    tl.store(
        dx + place + c * dc,
        total,
        mask=ok & there,
    )
