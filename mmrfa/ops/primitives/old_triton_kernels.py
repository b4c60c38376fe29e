"""Triton kernels of the receptive-field features; importing needs triton.

Every tile is (BLOCK_P positions, BLOCK_C channels). The layouts differ in the
strides and in the shape of the tile only: with channels last, neighbouring
threads take neighbouring channels, else neighbouring positions of one channel.
Arithmetic is in float32. Vectors of the channels lie with the channel last:
weight (K, K, C), shift and gain (K, C). Derivations in ``rfa/README.md``.
"""

from functools import partial

import triton
import triton.language as tl

# Compiled once for images of any size. ``bits``, those of ``count``, has no
# effect: tiles are tuned for each order of magnitude, not for each size.
SIZES = ['count', 'bits', 'span', 'height', 'width', 'out_height', 'out_width']
kernel = partial(triton.jit, do_not_specialize=SIZES)
# Kernels see the module's values at import; so does triton's interpreter.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _dot(a, b, total):
    """A matrix product, added to; float32 is not shortened."""
    if INTERPRETED:  # there the bits of bfloat16 would be taken for integers
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision='ieee')


@triton.jit
def _split(p, height, width, WIDE: tl.constexpr):
    """Flat positions to image, row and column."""
    if WIDE:
        p = p.to(tl.int64)
    row = p // width
    return row // height, row % height, p - row * width


@triton.jit
def _plane(t, step, WIDE: tl.constexpr):
    """Offset of plane t, ``step`` apart."""
    if WIDE:
        t = tl.cast(t, tl.int64)
    return t * step


@triton.jit
def _channels(
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, WIDE: tl.constexpr
):
    """The channels of this program, a row, and which of them exist."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    c = tl.max_contiguous(c, [1, 2])
    there = c < CHANNELS
    if WIDE:
        c = c.to(tl.int64)
    return c, there


@triton.jit
def _pixel(x, n, h, w, c, ok, there, height, width, xn, xc, xh, xw):
    """Pixels of (n, h, w), zero outside the image, as a float32 tile."""
    inside = ok & (h >= 0) & (h < height) & (w >= 0) & (w < width)
    place = (n * xn + h * xh + w * xw) + c * xc
    return tl.load(x + place, mask=inside & there, other=0).to(tl.float32)


@triton.jit
def _field(
    x,
    n,
    ho,
    wo,
    c,
    ok,
    there,
    height,
    width,
    xn,
    xc,
    xh,
    xw,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
):
    """The receptive field of every position: a tuple of K tiles."""
    field = ()
    for i in tl.static_range(KH):
        for j in tl.static_range(KW):
            h = ho * SH - PH + i * DH
            w = wo * SW - PW + j * DW
            field = field + (
                _pixel(
                    x, n, h, w, c, ok, there, height, width, xn, xc, xh, xw
                ),
            )
    return field


@triton.jit
def _mean(field, TAPS: tl.constexpr):
    total = field[0]
    for t in tl.static_range(1, TAPS):
        total += field[t]
    return total * (1.0 / TAPS)


@triton.jit
def _softmax(gains, mean, there, CHANNELS: tl.constexpr, TAPS: tl.constexpr):
    """Maximum and one over the sum of the exponentials of the scores.

    The scores are ``gain[t] * mean``: their maximum is known beforehand.
    ``gains`` points at a row of the first of K vectors.
    """
    high = tl.load(gains, mask=there, other=0)
    low = high
    for t in range(1, TAPS):
        gain = tl.load(gains + t * CHANNELS, mask=there, other=0)
        high = tl.maximum(high, gain)
        low = tl.minimum(low, gain)
    top = tl.where(mean > 0, high, low) * mean
    total = tl.zeros_like(mean)
    for t in range(TAPS):
        gain = tl.load(gains + t * CHANNELS, mask=there, other=0)
        total += tl.exp(gain * mean - top)
    return top, 1.0 / total


@triton.jit
def _attention(gains, t, mean, top, scale, there, CHANNELS: tl.constexpr):
    """Attention of tap t, from what :func:`_softmax` found."""
    gain = tl.load(gains + t * CHANNELS, mask=there, other=0)
    return tl.exp(gain * mean - top) * scale


@triton.jit
def _activation(
    field,
    weights,
    shifts,
    t,
    there,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Feature t before its ReLU; pointers at the first rows of both."""
    weights += t * TAPS * CHANNELS
    value = tl.load(shifts + t * CHANNELS, mask=there, other=0)
    for s in tl.static_range(TAPS):
        weight = tl.load(weights + s * CHANNELS, mask=there, other=0)
        value += weight * field[s]
    return value


@kernel
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
    c, there = _channels(CHANNELS, BLOCK_C, WIDE)
    weights = weight + c
    shifts = shift + c
    if ATTEND:
        gains = gain + c
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    ok = p < count
    n, ho, wo = _split(p, out_height, out_width, WIDE)
    field = _field(
        x, n, ho, wo, c, ok, there, height, width, xn, xc, xh, xw,
        KH, KW, SH, SW, PH, PW, DH, DW,
    )  # fmt: skip
    if ATTEND:
        mean = _mean(field, TAPS)
        top, scale = _softmax(gains, mean, there, CHANNELS, TAPS)
    if UNFOLD:
        top = tl.full((BLOCK_P, BLOCK_C), float('-inf'), tl.float32)
        total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        for t in range(TAPS):
            value = _activation(
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
        value = _activation(field, weights, shifts, t, there, CHANNELS, TAPS)
        if UNFOLD:
            value = tl.exp(value - top) * scale
            value *= _pixel(
                x, n,
                ho * SH - PH + t // KW * DH,
                wo * SW - PW + t % KW * DW,
                c, ok, there, height, width, xn, xc, xh, xw,
            )  # fmt: skip
        else:
            value = tl.where(value <= 0, 0.0, value)  # NaN stays
        if ATTEND:
            value *= _attention(gains, t, mean, top, scale, there, CHANNELS)
        tl.store(pointers + _plane(t, yt, WIDE), value, mask=mask)


@kernel
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
    c, there = _channels(CHANNELS, BLOCK_C, WIDE)
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
        n, ho, wo = _split(p, out_height, out_width, WIDE)
        field = _field(
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
            mean = _mean(field, TAPS)
            top, scale = _softmax(gains, mean, there, CHANNELS, TAPS)
            inner = tl.zeros_like(mean)
            dmean = tl.zeros_like(mean)
            attention = tl.zeros_like(mean)
        for t in range(TAPS):
            value = _activation(
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
                    dy = _dot(dsum, matrix, dy)
            else:
                dy = tl.load(grads + _plane(t, gt, WIDE), mask=mask, other=0)
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
            tl.store(pointers + _plane(t, zt, WIDE), dy, mask=mask)
        if ATTEND:
            dmean = (dmean - attention * inner) * (1.0 / TAPS)
            tl.store(pointers + _plane(TAPS, zt, WIDE), dmean, mask=mask)
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


@kernel
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
    c, there = _channels(CHANNELS, BLOCK_C, WIDE)
    weights = weight + c
    shifts = shift + c
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    ok = p < count
    n, ho, wo = _split(p, out_height, out_width, WIDE)
    field = _field(
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
        value = _activation(field, weights, shifts, t, there, CHANNELS, TAPS)
        pixel = _pixel(
            x, n, ho * SH - PH + t // KW * DH, wo * SW - PW + t % KW * DW,
            c, ok, there, height, width, xn, xc, xh, xw,
        )  # fmt: skip
        dy = tl.load(grads + _plane(t, gt, WIDE), mask=mask, other=0).to(
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
        value = _activation(field, weights, shifts, t, there, CHANNELS, TAPS)
        pixel = _pixel(
            x, n, ho * SH - PH + t // KW * DH, wo * SW - PW + t % KW * DW,
            c, ok, there, height, width, xn, xc, xh, xw,
        )  # fmt: skip
        dy = tl.load(grads + _plane(t, gt, WIDE), mask=mask, other=0).to(
            tl.float32
        )
        share = tl.exp(value - top) * scale
        scores = pointers + _plane(t, zt, WIDE)
        tl.store(scores, share * (dy * pixel - inner), mask=mask)
        direct = pointers + _plane(TAPS + t, zt, WIDE)
        tl.store(direct, share * dy, mask=mask)


@kernel
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
    c, there = _channels(CHANNELS, BLOCK_C, WIDE)
    weights = weight + c
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]
    ok = p < count
    n, h, w = _split(p, height, width, WIDE)
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
                all_taps = pointers + _plane(TAPS, zt, WIDE)
                part += tl.load(all_taps, mask=mask, other=0)
            if UNFOLD:
                direct = pointers + _plane(TAPS + s, zt, WIDE)
                part += tl.load(direct, mask=mask, other=0)
        for i in range(KH):
            for j in tl.static_range(KW):
                t = i * KW + j
                if FROM_X:
                    value = _pixel(
                        x, n,
                        ho * SH - PH + i * DH,
                        wo * SW - PW + j * DW,
                        c, window, there, height, width, xn, xc, xh, xw,
                    )  # fmt: skip
                    value -= centre
                else:
                    place = pointers + _plane(t, zt, WIDE)
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


@kernel
def outer_sums(
    z,
    x,
    centre,
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
    WIDE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Partial sums over ``span`` positions of ``z[t] * U[s]`` and ``z[t]``.

    With FROM_X both are U less ``centre``. ``sums`` is (splits, K, K + 1, C);
    a program does ROWS of the K values of t.
    """
    TAPS: tl.constexpr = KH * KW
    c, there = _channels(CHANNELS, BLOCK_C, WIDE)
    start = tl.program_id(0) * span
    row = tl.program_id(2) * ROWS
    total = ()
    for _t in tl.static_range(ROWS * (TAPS + 1)):
        total = total + (tl.zeros((BLOCK_P, BLOCK_C), tl.float32),)
    if FROM_X:
        middle = tl.load(centre + c, mask=there, other=0)
    end = tl.minimum(start + span, count)
    for first in range(start, end, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)[:, None]
        ok = p < end
        n, ho, wo = _split(p, out_height, out_width, WIDE)
        mask = ok & there
        plain = _field(
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
                    pointers + _plane(t, zt, WIDE),
                    mask=mask & (t < TAPS),
                    other=0,
                ).to(tl.float32)
            elif ROWS == TAPS:
                value = field[r]
            else:
                value = _pixel(
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


# With OUTPUTS: matrix products want other tiles.
conv_input = features_backward
