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
    (N, C, kh, Ho) and columns (N, C, kw, Wo). With ``unfold`` the receptive
    field weighted by the softmax of the features before their ReLU.
    """
    field = receptive_field(x, weight.shape[2:], stride, padding, dilation)
    y = _linear(field, feature_weight, feature_shift)
    if unfold:
        y = softmax_over_taps(y) * field
    else:
        y = y.relu()
    if gain is not None:
        pooled = field.mean(2, keepdim=True)
        y = y * softmax_over_taps(pooled * gain.to(x.dtype)[:, :, None, None])
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
