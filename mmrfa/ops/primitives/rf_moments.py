"""Mean and covariance of the receptive fields, without storing one.

The kernels sum products in float32. A weight for which these nearly cancel
(an edge filter on a smooth image) leaves little but rounding of the variance
of its feature: for its channel they are summed again in float64.
"""

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window, like_input, receptive_field
from mmrfa.ops.primitives.define import define, differentiable, gradients

_WINDOW = 'int[2] kernel, int[2] stride, int[2] padding, int[2] dilation'
# A variance below this part of what its products may add up to is not taken
# from sums in float32, whose rounding is some 1e-7 of that.
_LEAST = 1e-3


def rf_moments(
    x: Tensor, window: Window, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Moments of the receptive field over images and positions.

    Args:
        x (Tensor): (N, C, H, W).
        window (Window): of the operator.
        weight (Tensor): (C, K, K), of the features whose variance is wanted.
            It decides how exactly the sums are taken, and has no gradient.
        eps (float): added to that variance.

    Returns:
        tuple[Tensor, Tensor]: mean (C, K) and biased covariance (C, K, K),
        float64; zeros where there is no image.
    """
    return _exact_moments(x, weight.detach(), eps, *window)


def _exact(
    x: Tensor, weight: Tensor, eps: float, *window
) -> tuple[Tensor, Tensor]:
    """Moments as exact as the variance of the features needs them."""
    mean, covariance = _moments(x, *window)
    seen = seen_taps(x, Window(*window))
    blank(mean, covariance, seen)
    if x.dtype == torch.float64 or not any(seen):
        return mean, covariance
    doubted = unsure(mean, covariance, weight, eps, seen)
    for c in doubted.nonzero().flatten().tolist():
        of_channel = plain(x[:, c : c + 1], *window)
        mean[c], covariance[c] = (moment[0] for moment in of_channel)
    return mean, covariance


def blank(mean: Tensor, covariance: Tensor, seen: list[bool]) -> None:
    """Zero the moments of taps that see padding alone, in place."""
    for tap, sees in enumerate(seen):
        if not sees:
            mean[:, tap] = 0
            covariance[:, tap] = 0
            covariance[:, :, tap] = 0


def unsure(
    mean: Tensor,
    covariance: Tensor,
    weight: Tensor,
    eps: float,
    seen: list[bool],
) -> Tensor:
    """Which channels have a feature whose variance may be little but rounding.

    Nothing here waits for a GPU, nor do the indices go there.

    Args:
        mean (Tensor): (C, K), by sums in float32.
        covariance (Tensor): (C, K, K), likewise.
        weight (Tensor): (C, K, K), of the features.
        eps (float): added to their variance.
        seen (list[bool]): taps that see the image, one at least.

    Returns:
        Tensor: (C,), bool.
    """

    def own(moment: Tensor, *dims: int) -> Tensor:
        for dim in () if all(seen) else dims:
            taps = [t for t, sees in zip(moment.unbind(dim), seen) if sees]
            moment = torch.stack(taps, dim)
        return moment

    v = own(weight, 2).double()
    mean, covariance = own(mean, 1), own(covariance, 1, 2)
    var = ((v @ covariance) * v).sum(2)
    # The sums are of pixels less the mean of their channel, and a tap that
    # sees padding has another mean.
    low, high = mean.aminmax(dim=1)
    square = covariance.diagonal(dim1=1, dim2=2).clamp(min=0)
    square = square + (high - low).square().unsqueeze(1)
    most = (v.abs() @ square.sqrt().unsqueeze(2)).squeeze(2).square()
    return (var + eps < _LEAST * most).any(1)


def seen_taps(x: Tensor, window: Window) -> list[bool]:
    """Which taps see the image at all, and not only padding."""
    sees = []
    for size, windows, kernel, stride, padding, dilation in zip(
        x.shape[2:], window.out_size(x), *window
    ):
        places = range(-padding, windows * stride - padding, stride)
        sees.append(
            [
                any(0 <= place + tap * dilation < size for place in places)
                for tap in range(kernel)
            ]
        )
    return [row and column for row in sees[0] for column in sees[1]]


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
    ctx.save_for_backward(inputs[0], output[0])
    ctx.window = inputs[-4:]
    ctx.others = [None] * (len(inputs) - 1)


def _backward(ctx, *grads: Tensor) -> tuple:
    x, mean = ctx.saved_tensors
    if torch.is_grad_enabled():
        dx, *_ = differentiable(plain, (x, *ctx.window), grads)
    else:
        dx = _moments_backward(*grads, x, mean, *ctx.window)
    return dx, *ctx.others


def _fake_exact(
    x: Tensor, weight: Tensor, eps: float, *window
) -> tuple[Tensor, Tensor]:
    return _fake(x, *window)


_moments = define(
    f'rf_moments(Tensor x, {_WINDOW}) -> (Tensor mean, Tensor covariance)',
    plain,
    _fake,
    _keep,
    _backward,
)
_exact_moments = define(
    f'rf_exact_moments(Tensor x, Tensor weight, float eps, {_WINDOW}) -> '
    '(Tensor mean, Tensor covariance)',
    _exact,
    _fake_exact,
    _keep,
    _backward,
)
_moments_backward = define(
    'rf_moments_backward(Tensor mean, Tensor covariance, Tensor x, '
    f'Tensor batch_mean, {_WINDOW}) -> Tensor',
    plain_backward,
    _fake_backward,
)
