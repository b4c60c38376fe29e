"""Weighing the taps of every window, and their sum.

A convolution with kernel = stride on the spread features is a 1x1
convolution on the features themselves, so they never need to be spread.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.window import Window


class Conv(NamedTuple):
    """The weighted sum over the window, the last step of every operator.

    Attributes:
        weight (Tensor): (O, C / groups, kh, kw).
        bias (Tensor | None): (O,).
        groups (int): as in ``F.conv2d``.
    """

    weight: Tensor
    bias: Tensor | None
    groups: int = 1


def conv2d(x: Tensor, conv: Conv, window: Window) -> Tensor:
    """A plain convolution, for attention that acts in front of it.

    Args:
        x (Tensor): (N, C, H, W).
        conv (Conv): (O, C / groups, kh, kw).
        window (Window): of the convolution.

    Returns:
        Tensor: (N, O, Ho, Wo).
    """
    _, *geometry = window
    return F.conv2d(x, conv.weight, conv.bias, *geometry, conv.groups)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (O, C, 1, 1).
        bias (Tensor | None): (O,). Defaults to None.

    Returns:
        Tensor: (N, O, H, W).
    """
    return sum_over_taps(x.unsqueeze(2), Conv(weight, bias))


def softmax_over_taps(scores: Tensor) -> Tensor:
    """Softmax over dim 2 of (N, C, K, Ho, Wo), half precision in float32."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(2, dtype=wide).to(scores.dtype)


def sum_over_taps(y: Tensor, conv: Conv) -> Tensor:
    """The last convolution, on features that were not spread.

    Args:
        y (Tensor): (N, C, K, Ho, Wo).
        conv (Conv): its weight has K taps.

    Returns:
        Tensor: (N, O, Ho, Wo), equal to the kernel = stride convolution on
        ``spread(y)``.
    """
    y, weight = _ordered(y, conv.weight, conv.groups)
    flat = weight.flatten(1)
    # ONNX by tracing would take the batch that it sees for that of any.
    anywhere = not torch.onnx.is_in_onnx_export()
    if conv.groups == 1 and y.device.type == 'cpu' and anywhere:
        # Half the time of a 1x1 convolution, which reorders its input.
        flat = flat.expand(y.size(0), -1, -1)
        out = torch.bmm(flat, y.flatten(3).flatten(1, 2))
        out = out.unflatten(2, y.shape[3:])
        return out if conv.bias is None else out + _beside(conv.bias, out)
    y = y.flatten(1, 2)
    return F.conv2d(y, flat[:, :, None, None], conv.bias, groups=conv.groups)


def sum_over_taps_backward(
    grad: Tensor, y: Tensor, weight: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Gradients of ``y`` and the weight of :func:`sum_over_taps`.

    For operators with a backward of their own, below autograd.

    Args:
        grad (Tensor): of the sum, (N, O, Ho, Wo).
        y (Tensor): (N, C, K, Ho, Wo).
        weight (Tensor): of the convolution, dtype of y.
        groups (int): of the convolution.
    """
    shape = weight.shape
    ordered, weight = _ordered(y, weight, groups)
    dy, dweight, _ = torch.ops.aten.convolution_backward(
        grad,
        ordered.flatten(1, 2),
        weight.flatten(1)[:, :, None, None],
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        groups,
        [True, True, False],
    )
    dy = dy.unflatten(1, ordered.shape[1:3])
    dweight = dweight.reshape(weight.shape)
    if ordered is not y:
        dy, dweight = dy.transpose(1, 2), dweight.transpose(1, 2)
    return dy, dweight.reshape(shape)


def _beside(bias: Tensor, out: Tensor) -> Tensor:
    return bias.to(out.dtype)[:, None, None]


def _ordered(y: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Channels and taps of both in the order in which they lie in memory."""
    weight = weight.flatten(2)
    if groups == 1 and y.stride(1) < y.stride(2):
        # Taps before channels: turn the weight, not the features.
        return y.transpose(1, 2), weight.transpose(1, 2)
    return y, weight
