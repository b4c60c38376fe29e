"""What the compiled forms share: batch norm folded into the features.

Their kernels know features ``ReLU(sum_t' v[c, t, t'] * U[c, t'] + b[c, t])``
only. In training mode, the statistics that ``v`` and ``b`` come from follow
from the mean and the covariance of the receptive field: a pass over ``x`` that
stores K + K*K numbers per channel. All of it is differentiable.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmrfa.ops.norm import fold_norm, update_running_statistics
from mmrfa.ops.receptive_field import Pair, out_size

# (x, kernel_size, stride, padding, dilation) to the mean (C, K) and the
# covariance (C, K, K) of the receptive field, float64
Moments = Callable[..., tuple[Tensor, Tensor]]


def as_autocast(x: Tensor) -> Tensor:
    """Cast the input as autocast casts that of a convolution."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def folded_features(
    moments: Moments,
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
        moments (Callable): see :data:`Moments`; called in training mode.
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
    height, width = out_size(x, *geometry)
    outputs = x.size(0) * height * width
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
    mean, covariance = moments(x, *geometry)
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
