"""AWConv as one matrix product a sample; any device, dtype and batch."""

import torch
from torch import Tensor

from mmrfa.ops.aw.reference import WeightAttention, weight_attention
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.tracing import is_exporting
from mmrfa.ops.common.window import Window, like_input, receptive_field


def supports(*args, **kwargs) -> None:
    """It takes whatever is valid."""


def in_exports(x: Tensor) -> str | None:
    """Why it is not taken where nothing was named, or None."""
    return None if is_exporting() else 'only exported programs need it'


def aw_conv2d(
    x: Tensor,
    attention: WeightAttention,
    conv: Conv,
    window: Window,
    gated: Tensor | None = None,
) -> Tensor:
    """Compute ``reference.aw_conv2d``.

    The number of groups of the reference depends on the batch, which programs
    for a batch of any size do not allow.
    """
    weight, bias, groups = conv
    weights = weight * weight_attention(x, attention, weight.shape)
    x = x if gated is None else gated
    # In full: with no image in the batch, -1 could be any size.
    n, out, taps = x.size(0), weight.size(0), weight[0].numel()
    field = receptive_field(x, window)
    pixels = field.size(3) * field.size(4)
    y = torch.matmul(
        weights.reshape(n, groups, out // groups, taps),
        field.reshape(n, groups, taps, pixels),
    )
    y = y.reshape(n, out, field.size(3), field.size(4))
    y = y if bias is None else y + bias.to(y.dtype).view(1, -1, 1, 1)
    return like_input(y, x)
