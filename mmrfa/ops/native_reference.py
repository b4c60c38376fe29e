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
    stride,
    padding,
    dilation,
    groups,
    unfold,
) -> Tensor:
    """Weighted features, and their sum.

    Features as they are, or weighted by attention if there is a gain; with
    ``unfold`` the receptive field weighted by the softmax of the features
    before their ReLU.
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
    return sum_over_taps(y, weight.to(x.dtype), bias, groups)


def rf_moments(x, kernel, stride, padding, dilation) -> tuple[Tensor, Tensor]:
    """Mean (C, K) and covariance (C, K, K) of the receptive field."""
    field = receptive_field(x, kernel, stride, padding, dilation).double()
    field = field.permute(1, 2, 0, 3, 4).flatten(2)
    mean = field.mean(2)
    centred = field - mean.unsqueeze(2)
    return mean, centred @ centred.transpose(1, 2) / field.size(2)
