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
    n = x.size(0)
    field = receptive_field(x, window)
    y = torch.matmul(
        weights.reshape(n, groups, weight.size(0) // groups, -1),
        field.reshape(
            n, groups, weight[0].numel(), field.size(3) * field.size(4)
        ),
    )
    y = y.reshape(n, weight.size(0), field.size(3), field.size(4))
    y = y if bias is None else y + bias.to(y.dtype).view(1, -1, 1, 1)
    return like_input(y, x)
