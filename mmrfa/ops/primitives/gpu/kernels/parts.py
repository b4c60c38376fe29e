"""What the kernels share.

Every tile is (BLOCK_P positions, BLOCK_C channels). The layouts differ in the
strides and in the shape of the tile only: with channels last, neighbouring
threads take neighbouring channels, else neighbouring positions of one channel.
Arithmetic is in float32. Vectors of the channels lie with the channel last:
weight (K, K, C), shift and gain (K, C).
"""

import triton
import triton.language as tl

# Kernels see the module's values at import; so does triton's interpreter.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def add_product(a, b, total):
    """A matrix product, added to; float32 is not shortened."""
    if INTERPRETED:  # there the bits of bfloat16 would be taken for integers
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision='ieee')


@triton.jit
def split_position(p, height, width, WIDE: tl.constexpr):
    """Flat positions to image, row and column."""
    if WIDE:
        p = p.to(tl.int64)
    row = p // width
    return row // height, row % height, p - row * width


@triton.jit
def plane_offset(t, step, WIDE: tl.constexpr):
    """Offset of plane t, ``step`` apart."""
    if WIDE:
        t = tl.cast(t, tl.int64)
    return t * step


@triton.jit
def own_channels(
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
def load_pixel(x, n, h, w, c, ok, there, height, width, xn, xc, xh, xw):
    """Pixels of (n, h, w), zero outside the image, as a float32 tile."""
    inside = ok & (h >= 0) & (h < height) & (w >= 0) & (w < width)
    place = (n * xn + h * xh + w * xw) + c * xc
    return tl.load(x + place, mask=inside & there, other=0).to(tl.float32)


@triton.jit
def load_field(
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
                load_pixel(
                    x, n, h, w, c, ok, there, height, width, xn, xc, xh, xw
                ),
            )
    return field


@triton.jit
def mean_of(field, TAPS: tl.constexpr):
    total = field[0]
    for t in tl.static_range(1, TAPS):
        total += field[t]
    return total * (1.0 / TAPS)


@triton.jit
def softmax_of(gains, mean, there, CHANNELS: tl.constexpr, TAPS: tl.constexpr):
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
def attention_of(gains, t, mean, top, scale, there, CHANNELS: tl.constexpr):
    """Attention of tap t, from what :func:`softmax_of` found."""
    gain = tl.load(gains + t * CHANNELS, mask=there, other=0)
    return tl.exp(gain * mean - top) * scale


@triton.jit
def activation_of(
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
