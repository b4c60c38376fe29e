"""Features, and their means over the lines of the spread receptive field."""

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


def rf_line_pool(
    x: Tensor, folded: Folded, window: Window
) -> tuple[Tensor, Tensor]:
    """Means over the width and over the height of the spread features.

    Args:
        x (Tensor): (N, C, H, W).
        folded (Folded): makes the features.
        window (Window): of the operator.

    Returns:
        tuple[Tensor, Tensor]: means over the lines (N, C, kh, Ho) and over
        the columns (N, C, kw, Wo), float32.
    """
    return _line_pool(x, *folded, *window)


def plain(
    x: Tensor, weight: Tensor, shift: Tensor, *window
) -> tuple[Tensor, Tensor]:
    window = Window(*window)
    y = features(x, weight, shift, window)
    grid = y.unflatten(2, tuple(window.kernel_size))
    return grid.mean((3, 5)), grid.mean((2, 4))


def plain_backward(
    lines: Tensor, columns: Tensor, x: Tensor, *rest
) -> tuple[Tensor, Tensor, Tensor]:
    found = gradients(plain, (x, *rest), (lines, columns))
    dx, dweight, dshift = found[:3]
    return like_input(dx, x), dweight.contiguous(), dshift.contiguous()


def _fake(x: Tensor, weight: Tensor, shift: Tensor, *window) -> tuple:
    window = Window(*window)
    height, width = window.out_size(x)
    kh, kw = window.kernel_size
    shape = x.shape[:2]
    wide = torch.promote_types(x.dtype, torch.float32)
    return (
        x.new_empty((*shape, kh, height), dtype=wide),
        x.new_empty((*shape, kw, width), dtype=wide),
    )


def _fake_backward(
    lines: Tensor,
    columns: Tensor,
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    *window,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = like_input(x.new_empty(x.shape), x)
    return dx, empty_like(weight, x), empty_like(shift, x)


def _keep(ctx, inputs: tuple, output: tuple) -> None:
    x, weight, shift, *ctx.window = inputs
    ctx.save_for_backward(x, weight, shift)


def _backward(ctx, *grads: Tensor) -> tuple:
    inputs = (*ctx.saved_tensors, *ctx.window)
    if torch.is_grad_enabled():
        return tuple(differentiable(plain, inputs, grads))
    return *_line_pool_backward(*grads, *inputs), *[None] * 4


_line_pool = define(
    f'rf_line_pool({_INPUTS}) -> (Tensor lines, Tensor columns)',
    plain,
    _fake,
    _keep,
    _backward,
)
_line_pool_backward = define(
    f'rf_line_pool_backward(Tensor lines, Tensor columns, {_INPUTS}) -> '
    '(Tensor x, Tensor weight, Tensor shift)',
    plain_backward,
    _fake_backward,
)
