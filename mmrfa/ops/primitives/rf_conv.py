"""Features, weighed by attention or gates, and the convolution behind them."""

from typing import NamedTuple

import torch
from torch import Tensor

from mmrfa.ops.common.taps import Conv, softmax_over_taps, sum_over_taps
from mmrfa.ops.common.window import Window, like_input
from mmrfa.ops.primitives.define import (
    define,
    differentiable,
    empty_like,
    gradients,
)
from mmrfa.ops.primitives.features import linear, wide_field
from mmrfa.ops.primitives.folding import Folded


class PositionGates(NamedTuple):
    """What the features are multiplied by in RFCBAMConv, float32.

    Attributes:
        channels (Tensor): (N, C).
        positions (Tensor): (N, K, Ho, Wo).
    """

    channels: Tensor
    positions: Tensor


class LineGates(NamedTuple):
    """What the features are multiplied by in RFCAConv, float32.

    Attributes:
        rows (Tensor): of the spread features, (N, C, kh, Ho).
        columns (Tensor): likewise, (N, C, kw, Wo).
    """

    rows: Tensor
    columns: Tensor


def rf_conv(
    x: Tensor,
    folded: Folded,
    conv: Conv,
    window: Window,
    gain: Tensor | None = None,
    gates: PositionGates | LineGates | None = None,
    unfold: bool = False,
) -> Tensor:
    """Convolve weighted features of the receptive fields U.

    With ``f[c, t] = sum_t' v[c, t, t'] * U[c, t'] + b[c, t]`` the sum over
    channels and taps of ``weight`` times one of

    - ``ReLU(f)``, times the gates if there are some;
    - ``softmax_t(gain[c, t] * mean_t' U[c, t']) * ReLU(f)``;
    - ``softmax_t(f) * U`` with ``unfold``.

    Args:
        x (Tensor): (N, C, H, W).
        folded (Folded): v and b.
        conv (Conv): the last convolution; float32 or of the dtype of x.
        window (Window): of the operator.
        gain (Tensor | None): (C, K), float32.
        gates (PositionGates | LineGates | None): without gain and unfold.
        unfold (bool): without gain. Defaults to False.

    Returns:
        Tensor: (N, O, Ho, Wo), dtype and memory format of x.
    """
    four = [None] * 4
    if isinstance(gates, PositionGates):
        four[:2] = gates
    elif gates is not None:
        four[2:] = gates
    _, *geometry = window
    last = conv.weight, conv.bias
    rest = *geometry, conv.groups, unfold
    return _conv(x, gain, *folded, *last, *four, *rest)


def plain(
    x: Tensor,
    gain: Tensor | None,
    feature_weight: Tensor,
    feature_shift: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channel_gate: Tensor | None,
    position_gate: Tensor | None,
    row_gate: Tensor | None,
    column_gate: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    unfold: bool,
) -> Tensor:
    window = Window(weight.shape[2:], stride, padding, dilation)
    field = wide_field(x, window)
    y = linear(field, feature_weight, feature_shift)
    if unfold:
        y = softmax_over_taps(y) * field
    else:
        y = y.relu()
    if gain is not None:
        scores = field.mean(2, keepdim=True) * gain[:, :, None, None]
        y = y * softmax_over_taps(scores.to(y.dtype))
    grid = y.unflatten(2, tuple(window.kernel_size))  # N C kh kw Ho Wo
    if channel_gate is not None:
        gate = position_gate.unflatten(1, tuple(window.kernel_size))
        grid = grid * channel_gate[:, :, None, None, None, None]
        grid = grid * gate.unsqueeze(1)
    if row_gate is not None:
        grid = grid * row_gate[:, :, :, None, :, None]
        grid = grid * column_gate[:, :, None, :, None, :]
    y = grid.flatten(2, 3).to(y.dtype)
    bias = None if bias is None else bias.to(y.dtype)
    out = sum_over_taps(y, Conv(weight.to(y.dtype), bias, groups))
    return like_input(out.to(x.dtype), x)


def plain_backward(
    grad: Tensor,
    x: Tensor,
    gain: Tensor | None,
    feature_weight: Tensor,
    feature_shift: Tensor,
    weight: Tensor,
    *rest,
) -> tuple[Tensor, ...]:
    before = x, gain, feature_weight, feature_shift, weight
    found = gradients(plain, (*before, None, *rest), grad)
    dx, *others = found[:5] + found[6:10]
    return like_input(dx, x), *(
        x.new_empty(0) if found is None else found.contiguous()
        for found in others
    )


def _fake(
    x: Tensor,
    gain: Tensor | None,
    feature_weight: Tensor,
    feature_shift: Tensor,
    weight: Tensor,
    *rest,
) -> Tensor:
    window = Window(weight.shape[2:], *rest[5:8])
    size = x.size(0), weight.size(0), *window.out_size(x)
    return like_input(x.new_empty(size), x)


def _fake_backward(grad: Tensor, x: Tensor, *rest) -> tuple[Tensor, ...]:
    dx = like_input(x.new_empty(x.shape), x)
    return dx, *(empty_like(value, x) for value in rest[:8])


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, bias = inputs[:6]
    ctx.save_for_backward(*tensors, *inputs[6:10])
    ctx.geometry = inputs[10:]
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx, grad: Tensor) -> tuple:
    tensors = ctx.saved_tensors
    inputs = (*tensors, *ctx.geometry)
    if torch.is_grad_enabled():
        inputs = (*inputs[:5], None, *inputs[5:])
        found = differentiable(plain, inputs, grad)
        del found[5]
    else:
        found = [
            None if value is None else gradient
            for gradient, value in zip(_conv_backward(grad, *inputs), tensors)
        ]
        found += [None] * len(ctx.geometry)
    dbias = None
    if ctx.bias_dtype is not None:
        wide = torch.promote_types(grad.dtype, torch.float32)
        dbias = grad.sum((0, 2, 3), dtype=wide).to(ctx.bias_dtype)
    return *found[:5], dbias, *found[5:]


_BEFORE = (
    'Tensor x, Tensor? gain, Tensor feature_weight, Tensor feature_shift, '
    'Tensor weight, '
)
_AFTER = (
    'Tensor? channel_gate, Tensor? position_gate, Tensor? row_gate, '
    'Tensor? column_gate, int[2] stride, int[2] padding, int[2] dilation, '
    'int groups, bool unfold'
)
_conv = define(
    f'rf_conv({_BEFORE}Tensor? bias, {_AFTER}) -> Tensor',
    plain,
    _fake,
    _keep,
    _backward,
)
_conv_backward = define(
    f'rf_conv_backward(Tensor grad, {_BEFORE}{_AFTER}) -> (Tensor x, '
    'Tensor gain, Tensor feature_weight, Tensor feature_shift, '
    'Tensor weight, Tensor channel_gate, Tensor position_gate, '
    'Tensor row_gate, Tensor column_gate)',
    plain_backward,
    _fake_backward,
)
