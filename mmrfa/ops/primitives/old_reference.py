"""What the compiled kernels compute, in plain PyTorch.

Their specification in tests, and the way to second derivatives, which the
kernels do not have. Arguments as in ``csrc/binding.cpp``.
"""

import torch
from torch import Tensor

from mmrfa.ops.fused import sum_over_taps
from mmrfa.ops.receptive_field import receptive_field
from mmrfa.ops.rfa.reference import softmax_over_taps


def _linear(field, weight, shift) -> Tensor:
    y = torch.einsum('ctk,nckab->nctab', weight.to(field.dtype), field)
    return y + shift.to(field.dtype)[:, :, None, None]


def rf_features(x, weight, shift, kernel, stride, padding, dilation) -> Tensor:
    """``ReLU(sum_t' weight[c, t, t'] * U[c, t'] + shift[c, t])``."""
    field = receptive_field(x, kernel, stride, padding, dilation)
    return _linear(field, weight, shift).relu()


def rf_weighted(
    x, gain, weight, shift, kernel, stride, padding, dilation, unfold=False
) -> Tensor:
    """Features, weighted by attention if there is a gain.

    With ``unfold`` the receptive field weighted by the softmax of the features
    before their ReLU.
    """
    geometry = (kernel, stride, padding, dilation)
    if unfold:
        field = receptive_field(x, *geometry)
        return softmax_over_taps(_linear(field, weight, shift)) * field
    y = rf_features(x, weight, shift, *geometry)
    if gain is None:
        return y
    pooled = receptive_field(x, *geometry).mean(2, keepdim=True)
    return y * softmax_over_taps(pooled * gain.to(x.dtype)[:, :, None, None])


def rf_conv(
    x,
    gain,
    feature_weight,
    feature_shift,
    weight,
    bias,
    first,
    second,
    stride,
    padding,
    dilation,
    groups,
    unfold,
) -> Tensor:
    """Weighted features, and their sum.

    Features as they are, or weighted by attention if there is a gain, or by
    two gates: of channels (N, C) and positions (N, K, Ho, Wo), or of lines
    (N, C, kh, Ho) and columns (N, C, kw, Wo). ``unfold`` as in
    :func:`rf_weighted`.
    """
    geometry = (weight.shape[2:], stride, padding, dilation, unfold)
    y = rf_weighted(x, gain, feature_weight, feature_shift, *geometry)
    if first is not None:
        y = y * _gates(first, second, weight.shape[2:]).to(x.dtype)
    return sum_over_taps(y, weight.to(x.dtype), bias, groups)


def _gates(first, second, kernel_size) -> Tensor:
    if first.dim() == 2:
        return first[:, :, None, None, None] * second.unsqueeze(1)
    grid = first[:, :, :, None, :, None] * second[:, :, None, :, None, :]
    return grid.flatten(2, 3)


def rf_channel_pool(x, *args) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum over the channels, mean, and where the maximum is."""
    y = rf_features(x, *args)
    wide = torch.promote_types(x.dtype, torch.float32)
    maximum, argument = y.max(1)
    return maximum.to(wide), y.mean(1).to(wide), argument.int()


def rf_line_pool(x, weight, shift, kernel, *geometry) -> tuple:
    """Means over the lines and columns of the spread receptive field."""
    y = rf_features(x, weight, shift, kernel, *geometry)
    grid = y.unflatten(2, tuple(kernel))
    wide = torch.promote_types(x.dtype, torch.float32)
    return grid.mean((3, 5)).to(wide), grid.mean((2, 4)).to(wide)


def rf_moments(x, kernel, stride, padding, dilation) -> tuple[Tensor, Tensor]:
    """Mean (C, K) and covariance (C, K, K) of the receptive field."""
    field = receptive_field(x, kernel, stride, padding, dilation).double()
    field = field.permute(1, 2, 0, 3, 4).flatten(2)
    mean = field.mean(2)
    centred = field - mean.unsqueeze(2)
    return mean, centred @ centred.transpose(1, 2) / field.size(2)


def differentiable(plain, inputs, grads) -> tuple:
    """Gradients that can be differentiated again, one per input.

    The compiled backward has no derivative of its own. Grad mode is on in
    backward only where somebody asked for one (``create_graph``).

    Args:
        plain (Callable): computes the operator in plain PyTorch.
        inputs (Sequence): its arguments.
        grads (Tensor | tuple[Tensor, ...]): gradients of what it returns.

    Returns:
        tuple: one gradient per input, None where there is none.
    """
    wanted = [
        i
        for i, value in enumerate(inputs)
        if isinstance(value, Tensor) and value.requires_grad
    ]
    # Aliases: an input may depend on another one, whose gradient must count
    # the direct way alone.
    inputs = list(inputs)
    for i in wanted:
        inputs[i] = inputs[i].view_as(inputs[i])
    found = torch.autograd.grad(
        plain(*inputs),
        [inputs[i] for i in wanted],
        grads,
        create_graph=True,
        allow_unused=True,
    )
    result = [None] * len(inputs)
    for i, gradient in zip(wanted, found):
        result[i] = gradient
    return tuple(result)
