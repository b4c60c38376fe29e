"""Mean and covariance of the receptive fields, without storing one."""

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window, like_input, receptive_field
from mmrfa.ops.primitives.define import define, differentiable, gradients

_WINDOW = 'int[2] kernel, int[2] stride, int[2] padding, int[2] dilation'


def rf_moments(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Moments of the receptive field over images and positions.

    Args:
        x (Tensor): (N, C, H, W).
        window (Window): of the operator.

    Returns:
        tuple[Tensor, Tensor]: mean (C, K) and biased covariance (C, K, K),
        float64; zeros where there is no image.
    """
    return _moments(x, *window)


def plain(x: Tensor, *window) -> tuple[Tensor, Tensor]:
    field = receptive_field(x.double(), Window(*window))
    field = field.transpose(0, 1).transpose(1, 2).flatten(2)
    count = max(1, field.size(2))
    mean = field.sum(2) / count
    centred = field - mean.unsqueeze(2)
    return mean, centred @ centred.transpose(1, 2) / count


def plain_backward(
    mean: Tensor, covariance: Tensor, x: Tensor, batch_mean: Tensor, *window
) -> Tensor:
    dx, *_ = gradients(plain, (x, *window), (mean, covariance))
    return like_input(dx, x)


def _fake(x: Tensor, *window) -> tuple[Tensor, Tensor]:
    shape = x.size(1), Window(*window).taps
    mean = x.new_empty(shape, dtype=torch.float64)
    return mean, mean.new_empty(*shape, shape[1])


def _fake_backward(
    mean: Tensor, covariance: Tensor, x: Tensor, batch_mean: Tensor, *window
) -> Tensor:
    return like_input(x.new_empty(x.shape), x)


def _keep(ctx, inputs: tuple, output: tuple) -> None:
    x, *ctx.window = inputs
    ctx.save_for_backward(x, output[0])


def _backward(ctx, *grads: Tensor) -> tuple:
    x, mean = ctx.saved_tensors
    if torch.is_grad_enabled():
        return tuple(differentiable(plain, (x, *ctx.window), grads))
    return _moments_backward(*grads, x, mean, *ctx.window), *[None] * 4


_moments = define(
    f'rf_moments(Tensor x, {_WINDOW}) -> (Tensor mean, Tensor covariance)',
    plain,
    _fake,
    _keep,
    _backward,
)
_moments_backward = define(
    'rf_moments_backward(Tensor mean, Tensor covariance, Tensor x, '
    f'Tensor batch_mean, {_WINDOW}) -> Tensor',
    plain_backward,
    _fake_backward,
)
