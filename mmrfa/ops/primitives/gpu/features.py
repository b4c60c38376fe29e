"""Weighted features in memory, and their gradients.

What every primitive but the moments is made of.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window, layout_of
from mmrfa.ops.primitives.gpu import launch
from mmrfa.ops.primitives.gpu.launch import (
    channels_last,
    common,
    is_wide,
    last_channel,
    pieces,
    planes,
    strides,
)

# Programs that share a sum over positions, no more than fill a large GPU.
MOST_PROGRAMS = 1024


class Features(NamedTuple):
    """What the features are made of.

    Attributes:
        x (Tensor): (N, C, H, W), float32, float16 or bfloat16.
        weight (Tensor): v, (C, K, K), float32 or float64, norm folded into
            it.
        shift (Tensor): b, (C, K), likewise.
        window (Window): of the operator.
        gain (Tensor | None): g, (C, K), float32: weighted by attention.
        unfold (bool): weigh U by a softmax of its own, instead of features.
    """

    x: Tensor
    weight: Tensor
    shift: Tensor
    window: Window
    gain: Tensor | None = None
    unfold: bool = False


def columns(x: Tensor) -> int:
    """Programs side by side, which the channels make."""
    return -(-x.size(1) // 32) if channels_last(x) else x.size(1)


def weighted(of: Features) -> Tensor:
    """Compute the features.

    Returns:
        Tensor: (N, C, K, Ho, Wo), dtype of x. Where the channels of x lie
        last in memory, so do these, and the taps before them.
    """
    x, weight, shift, window, gain, unfold = of
    y = planes(x, window.taps, window)
    arguments = dict(
        gain=None if gain is None else last_channel(gain),
        weight=last_channel(weight),
        shift=last_channel(shift),
        y=y,
        **strides('y', y),
        count=x.size(0) * y.size(3) * y.size(4),
        ATTEND=gain is not None,
        UNFOLD=unfold,
        WIDE=is_wide(x, y),
    )
    launch.start('features', common(x, window) | arguments)
    return y


def gradients(
    of: Features, grad: Tensor, matrix: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gain, weight and shift.

    That of the activations is written down once, as large as the features;
    that of x gathers it, without atomics, and those of weight and shift sum
    it in pieces: equal inputs give equal gradients.

    Args:
        of (Features): as in :func:`weighted`.
        grad (Tensor): of the features, or, with ``matrix``, of the last sum:
            (N, Ho, Wo, O), without gaps.
        matrix (Tensor | None): weight of the last sum, (K, C, O), dtype of x.

    Returns:
        tuple[Tensor, Tensor, Tensor, Tensor]: as x lies, and without gaps in
        the dtypes of what they are of; that of the gain is empty where there
        is none.
    """
    x, weight, shift, window, gain, unfold = of
    taps = window.taps
    attends = gain is not None
    z = planes(x, taps + (taps if unfold else int(attends)), window)
    outputs = x.size(0) * z.size(3) * z.size(4)
    span, number = pieces(x, outputs, MOST_PROGRAMS // columns(x))
    folded = last_channel(weight)
    dx = torch.empty_like(x, memory_format=layout_of(x))
    gain_sums = x.new_empty(
        number if attends else 0, taps, x.size(1), dtype=torch.float32
    )
    arguments = common(x, window) | dict(
        z=z, **strides('z', z), WIDE=is_wide(x, z, grad, dx)
    )
    first = arguments | dict(
        grad=grad, weight=folded, shift=last_channel(shift), count=outputs
    )
    if unfold:
        launch.start('unfold_backward', first | strides('g', grad))
    else:
        first |= dict(
            gain=last_channel(gain) if attends else None,
            gain_sums=gain_sums,
            span=span,
            taps=matrix,
            PAD=1 << (taps - 1).bit_length(),
            ATTEND=attends,
            OUTPUTS=0 if matrix is None else matrix.size(2),
            **strides('g', grad if matrix is None else None),
        )
        name = 'features_backward' if matrix is None else 'conv_input'
        launch.start(name, first)
    sums = x.new_empty(number, taps, taps + 1, x.size(1), dtype=torch.float32)
    launch.start(
        'outer_sums',
        arguments
        | dict(
            centre=None,
            doubted=None,
            sums=sums,
            count=outputs,
            span=span,
            FROM_X=False,
            EXACT=False,
        ),
    )
    launch.start(
        'input_gradient',
        arguments
        | dict(
            weight=folded,
            vector=None,
            dx=dx,
            **strides('d', dx),
            count=x.size(0) * x.size(2) * x.size(3),
            FROM_X=False,
            ATTEND=attends,
            UNFOLD=unfold,
        ),
    )
    sums = sums.sum(0, dtype=weight.dtype).movedim(2, 0)
    dgain = gain_sums.sum(0).t() if attends else gain_sums.view(-1)
    return (
        dx,
        dgain.contiguous(),
        sums[:, :, :taps].contiguous(),
        sums[:, :, taps].to(shift.dtype).contiguous(),
    )
