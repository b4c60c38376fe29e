"""Features, and their maximum and mean over the channels."""

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window, like_input
from mmrfa.ops.primitives.define import (
    define,
    differentiable,
    empty_like,
    gradients,
)
from mmrfa.ops.primitives.features import features
from mmrfa.ops.primitives.folding import Folded

_INPUTS = (
    'Tensor x, Tensor weight, Tensor shift, '
    'int[2] kernel, int[2] stride, int[2] padding, int[2] dilation'
)


def rf_channel_pool(
    x: Tensor, folded: Folded, window: Window
) -> tuple[Tensor, Tensor]:
    """Maximum and mean of the features over the channels.

    Args:
        x (Tensor): (N, C, H, W).
        folded (Folded): makes the features.
        window (Window): of the operator.

    Returns:
        tuple[Tensor, Tensor]: maximum and mean, both (N, K, Ho, Wo), float32.
    """
    maximum, mean, _ = _channel_pool(x, *folded, *window)
    return maximum, mean


def plain(
    x: Tensor, weight: Tensor, shift: Tensor, *window
) -> tuple[Tensor, Tensor, Tensor]:
    """The maximum, the mean, and in which channel the maximum is."""
    y = features(x, weight, shift, Window(*window))
    maximum, argument = y.max(1)
    return maximum, y.mean(1), argument.int()


def _pooled(*inputs) -> tuple[Tensor, Tensor]:
    return plain(*inputs)[:2]


def plain_backward(
    maximum: Tensor, mean: Tensor, argument: Tensor, x: Tensor, *rest
) -> tuple[Tensor, Tensor, Tensor]:
    found = gradients(_pooled, (x, *rest), (maximum, mean))
    dx, dweight, dshift = found[:3]
    return like_input(dx, x), dweight.contiguous(), dshift.contiguous()


def _fake(x: Tensor, weight: Tensor, shift: Tensor, *window) -> tuple:
    window = Window(*window)
    wide = torch.promote_types(x.dtype, torch.float32)
    shape = x.size(0), window.taps, *window.out_size(x)
    maximum = x.new_empty(shape, dtype=wide)
    argument = torch.empty_like(maximum, dtype=torch.int32)
    return maximum, torch.empty_like(maximum), argument


def _fake_backward(
    maximum: Tensor,
    mean: Tensor,
    argument: Tensor,
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    *window,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = like_input(x.new_empty(x.shape), x)
    return dx, empty_like(weight, x), empty_like(shift, x)


def _keep(ctx, inputs: tuple, output: tuple) -> None:
    x, weight, shift, *ctx.window = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(x, weight, shift, output[2])


def _backward(ctx, maximum: Tensor, mean: Tensor, _) -> tuple:
    *inputs, argument = ctx.saved_tensors
    inputs = (*inputs, *ctx.window)
    if torch.is_grad_enabled():
        return tuple(differentiable(_pooled, inputs, (maximum, mean)))
    found = _channel_pool_backward(maximum, mean, argument, *inputs)
    return *found, *[None] * 4


_channel_pool = define(
    f'rf_channel_pool({_INPUTS}) -> '
    '(Tensor maximum, Tensor mean, Tensor argument)',
    plain,
    _fake,
    _keep,
    _backward,
)
_channel_pool_backward = define(
    'rf_channel_pool_backward(Tensor maximum, Tensor mean, Tensor argument, '
    f'{_INPUTS}) -> (Tensor x, Tensor weight, Tensor shift)',
    plain_backward,
    _fake_backward,
)
