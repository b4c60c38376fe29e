"""Per position: the weighted features, and the gradient of activations.

Derivations in ``rfa/README.md``.
"""

import triton.language as tl

from mmrfa.ops.primitives.gpu.kernels.parts import (
    activation_of,
    add_product,
    attention_of,
    load_field,
    load_pixel,
    mean_of,
    own_channels,
    plane_offset,
    softmax_of,
    split_position,
)
from mmrfa.ops.primitives.gpu.kernels.tiles import tiled


@tiled(
    last={9: [(32, 64, 8), (16, 64, 4), (8, 64, 4)], 49: [(4, 64, 4)]},
    first={
        9: [(512, 1, 4), (256, 1, 4), (128, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    plain_only={(128, 8, 4)},
)
def features(
    x,
    gain,
    weight,
    shift,
    y,
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
    yn,
    yc,
    yt,
    yh,
    yw,
    CHANNELS: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    ATTEND: tl.constexpr,
    UNFOLD: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``y[t] = alpha[t] * ReLU(sum_s weight[t, s] U[s] + shift[t])``.

    Without ATTEND, alpha is one. With UNFOLD, ``y[t] = beta[t] * U[t]``, beta
    the softmax of what the ReLU is taken of above.
    """
    TAPS: tl.constexpr = KH * KW
    c, there = own_channels(CHANNELS, BLOCK_C, WIDE)
    weights = weight + c
    shifts = shift + c
    if ATTEND:
        gains = gain + c
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    ok = p < count
    n, ho, wo = split_position(p, out_height, out_width, WIDE)
    field = load_field(
        x, n, ho, wo, c, ok, there, height, width, xn, xc, xh, xw,
        KH, KW, SH, SW, PH, PW, DH, DW,
    )  # fmt: skip
    if ATTEND:
        mean = mean_of(field, TAPS)
        top, scale = softmax_of(gains, mean, there, CHANNELS, TAPS)
    if UNFOLD:
        top = tl.full((BLOCK_P, BLOCK_C), float('-inf'), tl.float32)
        total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        for t in range(TAPS):
            value = activation_of(
                field, weights, shifts, t, there, CHANNELS, TAPS
            )
            high = tl.maximum(top, value)
            total = total * tl.exp(top - high) + tl.exp(value - high)
            top = high
        scale = 1.0 / total
    place = n * yn + ho * yh + wo * yw
    pointers = y + place + c * yc
    mask = ok & there
    for t in range(TAPS):
        value = activation_of(field, weights, shifts, t, there, CHANNELS, TAPS)
        if UNFOLD:
            value = tl.exp(value - top) * scale
            value *= load_pixel(
                x, n,
                ho * SH - PH + t // KW * DH,
                wo * SW - PW + t % KW * DW,
                c, ok, there, height, width, xn, xc, xh, xw,
            )  # fmt: skip
        else:
            value = tl.where(value <= 0, 0.0, value)  # NaN stays
        if ATTEND:
            value *= attention_of(gains, t, mean, top, scale, there, CHANNELS)
        tl.store(pointers + plane_offset(t, yt, WIDE), value, mask=mask)


@tiled(
    last={9: [(16, 64, 8), (8, 64, 4), (8, 32, 4)], 49: [(4, 32, 4)]},
    first={
        9: [(256, 1, 4), (128, 1, 4), (32, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    constants=lambda taps: dict(BLOCK_O=1),  # of effect in conv_input alone
)
def features_backward(
    grad,
    taps,
    x,
    gain,
    weight,
    shift,
    z,
    gain_sums,
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
    gn,
    gc,
    gt,
    gh,
    gw,
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
    OUTPUTS: tl.constexpr,
    PAD: tl.constexpr,
    ATTEND: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Gradient of the activations, from that of ``y``; ``span`` positions.

    Plane t of ``z`` is the gradient of activation t, plane K that of every
    pixel of the field through the attention. ``gain_sums`` (splits, K, C)
    are partial sums of the gradient of ``gain``. With OUTPUTS, ``grad`` is
    that of the last sum, (positions, O), and meets ``taps`` (K, C, O) here.
    """
    TAPS: tl.constexpr = KH * KW
    c, there = own_channels(CHANNELS, BLOCK_C, WIDE)
    weights = weight + c
    shifts = shift + c
    if ATTEND:
        gains = gain + c
    start = tl.program_id(0) * span
    if ATTEND:
        row = tl.arange(0, PAD)[:, None]
        sums = tl.zeros((PAD, BLOCK_C), tl.float32)
    end = tl.minimum(start + span, count)
    for first in range(start, end, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)[:, None]
        ok = p < end
        n, ho, wo = split_position(p, out_height, out_width, WIDE)
        field = load_field(
            x, n, ho, wo, c, ok, there, height, width, xn, xc, xh, xw,
            KH, KW, SH, SW, PH, PW, DH, DW,
        )  # fmt: skip
        mask = ok & there
        if OUTPUTS:
            grads = grad + (p.to(tl.int64) if WIDE else p) * OUTPUTS
        else:
            grads = grad + (n * gn + ho * gh + wo * gw) + c * gc
        place = n * zn + ho * zh + wo * zw
        pointers = z + place + c * zc
        if ATTEND:
            mean = mean_of(field, TAPS)
            top, scale = softmax_of(gains, mean, there, CHANNELS, TAPS)
            inner = tl.zeros_like(mean)
            dmean = tl.zeros_like(mean)
            attention = tl.zeros_like(mean)
        for t in range(TAPS):
            value = activation_of(
                field, weights, shifts, t, there, CHANNELS, TAPS
            )
            if OUTPUTS:
                dy = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
                for first_o in range(0, OUTPUTS, BLOCK_O):
                    o = first_o + tl.arange(0, BLOCK_O)
                    dsum = tl.load(
                        grads + o[None, :],
                        mask=ok & (o[None, :] < OUTPUTS),
                        other=0,
                    )
                    matrix = tl.load(
                        taps + (t * CHANNELS + c) * OUTPUTS + o[:, None],
                        mask=there & (o[:, None] < OUTPUTS),
                        other=0,
                    )
                    dy = add_product(dsum, matrix, dy)
            else:
                dy = tl.load(
                    grads + plane_offset(t, gt, WIDE), mask=mask, other=0
                )
                dy = dy.to(tl.float32)
            if ATTEND:
                factor = tl.load(gains + t * CHANNELS, mask=there, other=0)
                alpha = tl.exp(factor * mean - top) * scale
                dy *= alpha
                part = dy * tl.where(value <= 0, 0.0, value)
                inner += part
                dmean += factor * part
                attention += factor * alpha
                total = tl.sum(part * mean, 0, keep_dims=True)
                sums += tl.where(row == t, total, 0.0)
            dy = tl.where(value > 0, dy, 0.0)
            tl.store(pointers + plane_offset(t, zt, WIDE), dy, mask=mask)
        if ATTEND:
            dmean = (dmean - attention * inner) * (1.0 / TAPS)
            tl.store(pointers + plane_offset(TAPS, zt, WIDE), dmean, mask=mask)
            inner *= mean * scale
            for t in range(TAPS):
                factor = tl.load(gains + t * CHANNELS, mask=there, other=0)
                alpha = tl.exp(factor * mean - top)
                total = tl.sum(alpha * inner, 0, keep_dims=True)
                sums -= tl.where(row == t, total, 0.0)
    if ATTEND:
        place = tl.program_id(0) * TAPS + row
        tl.store(
            gain_sums + place * CHANNELS + c,
            sums,
            mask=there & (row < TAPS),
        )


@tiled(
    last={9: [(32, 64, 8), (16, 64, 4), (8, 64, 4)], 49: [(4, 64, 4)]},
    first={
        9: [(512, 1, 4), (256, 1, 4), (128, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    plain_only={(128, 8, 4)},
)
def unfold_backward(
    grad,
    x,
    weight,
    shift,
    z,
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
    gn,
    gc,
    gt,
    gh,
    gw,
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
    WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``features_backward`` of ``features`` with UNFOLD.

    Plane t of ``z`` is the gradient of score t, plane K + t that of U[t] as a
    factor of ``y``.
    """
    TAPS: tl.constexpr = KH * KW
    c, there = own_channels(CHANNELS, BLOCK_C, WIDE)
    weights = weight + c
    shifts = shift + c
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    ok = p < count
    n, ho, wo = split_position(p, out_height, out_width, WIDE)
    field = load_field(
        x, n, ho, wo, c, ok, there, height, width, xn, xc, xh, xw,
        KH, KW, SH, SW, PH, PW, DH, DW,
    )  # fmt: skip
    mask = ok & there
    grads = grad + (n * gn + ho * gh + wo * gw) + c * gc
    pointers = z + (n * zn + ho * zh + wo * zw) + c * zc
    top = tl.full((BLOCK_P, BLOCK_C), float('-inf'), tl.float32)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    inner = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for t in range(TAPS):
        value = activation_of(field, weights, shifts, t, there, CHANNELS, TAPS)
        pixel = load_pixel(
            x, n, ho * SH - PH + t // KW * DH, wo * SW - PW + t % KW * DW,
            c, ok, there, height, width, xn, xc, xh, xw,
        )  # fmt: skip
        dy = tl.load(grads + plane_offset(t, gt, WIDE), mask=mask, other=0).to(
            tl.float32
        )
        high = tl.maximum(top, value)
        less = tl.exp(top - high)
        share = tl.exp(value - high)
        total = total * less + share
        inner = inner * less + share * dy * pixel
        top = high
    scale = 1.0 / total
    inner *= scale
    for t in range(TAPS):
        value = activation_of(field, weights, shifts, t, there, CHANNELS, TAPS)
        pixel = load_pixel(
            x, n, ho * SH - PH + t // KW * DH, wo * SW - PW + t % KW * DW,
            c, ok, there, height, width, xn, xc, xh, xw,
        )  # fmt: skip
        dy = tl.load(grads + plane_offset(t, gt, WIDE), mask=mask, other=0).to(
            tl.float32
        )
        share = tl.exp(value - top) * scale
        scores = pointers + plane_offset(t, zt, WIDE)
        tl.store(scores, share * (dy * pixel - inner), mask=mask)
        direct = pointers + plane_offset(TAPS + t, zt, WIDE)
        tl.store(direct, share * dy, mask=mask)
