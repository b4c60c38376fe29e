"""What the `cpu` forms share: batch norm folded into the features.

The kernels know features ``ReLU(sum_t' v[c, t, t'] * U[c, t'] + b[c, t])``
only. In training mode, the statistics that ``v`` and ``b`` come from follow
from the mean and the covariance of the receptive field: a pass over ``x`` that
stores K + K*K numbers per channel. All of it is differentiable.
"""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from mmrfa.ops import native
from mmrfa.ops.norm import (
    fold_norm,
    unsupported_norm,
    update_running_statistics,
)
from mmrfa.ops.receptive_field import Pair

DTYPES = (torch.float32, torch.bfloat16)
MOST_TAPS = 121


def unsupported(x: Tensor, weight: Tensor, norm: object) -> str | None:
    """Why the kernels cannot run on this input, or None."""
    if x.device.type != 'cpu':
        return f'needs a CPU tensor, got one on {x.device}'
    if x.dtype not in DTYPES:
        return f'needs float32 or bfloat16, got {x.dtype}'
    if weight.shape[2:].numel() > MOST_TAPS:
        return f'needs at most {MOST_TAPS} taps, got {tuple(weight.shape[2:])}'
    if x.numel() == 0:
        return 'needs at least one image'
    reason = unsupported_norm(norm)
    if reason is None:
        reason = native.unavailable()
        if reason is not None:
            _say_once(reason)
    return reason


@cache
def _say_once(reason: str) -> None:
    """Tell that the operators are slower here than they could be."""
    warnings.warn(
        f'mmrfa: the compiled CPU kernels are not used: {reason}',
        stacklevel=2,
    )


def as_autocast(x: Tensor) -> Tensor:
    """Cast the input as autocast casts that of a convolution."""
    if torch.is_autocast_enabled('cpu'):
        return x.to(torch.get_autocast_dtype('cpu'))
    return x


def folded_features(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: nn.Module,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> tuple[Tensor, Tensor, Callable[[], None]]:
    """Fold batch norm into the grouped convolution of the features.

    Args:
        x (Tensor): (N, C, H, W).
        weight, bias, norm, stride, padding, dilation: as in
            ``receptive_field_features``.

    Returns:
        tuple: v (C, K, K) and b (C, K), float32, and a function that moves
        the running statistics, to be called once.
    """
    channels, taps = x.size(1), weight.shape[2:].numel()
    shape = (channels, taps)
    geometry = (weight.shape[2:], stride, padding, dilation)
    outputs = x.size(0) * native.out_size(x, *geometry)
    training = isinstance(norm, nn.BatchNorm2d) and norm.training
    if not training or outputs == 1:
        weight, bias = fold_norm(norm, weight, bias)
        if bias is None:
            bias = weight.new_zeros(channels * taps)
        return (
            weight.view(*shape, taps).float(),
            bias.view(shape).float(),
            lambda: None,
        )
    mean, covariance = torch.ops.mmrfa.rf_moments(x, *geometry)
    v = weight.view(*shape, taps).double()
    mean = (v @ mean.unsqueeze(2)).squeeze(2)
    if bias is None:
        before = torch.zeros_like(mean)
    else:  # without effect but on the running mean; its gradient is zero
        before = bias.double().view(shape)
    mean = mean + before
    var = ((v @ covariance) * v).sum(2)
    scale = norm.weight.double().view(shape) * (var + norm.eps) ** -0.5
    shift = norm.bias.double().view(shape) + (before - mean) * scale

    def update() -> None:
        unbiased = var.detach().flatten() * outputs / (outputs - 1)
        update_running_statistics(norm, mean.detach().flatten(), unbiased)

    return (v * scale.unsqueeze(2)).float(), shift.float(), update
