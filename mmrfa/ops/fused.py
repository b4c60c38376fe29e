"""What the `fused` forms share: no shuffle, nothing of size C*K kept.

A convolution with kernel = stride on the spread features is a 1x1
convolution on the features themselves, so they never need to be spread.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrfa.ops.norm import PureNorm, fold_norm
from mmrfa.ops.receptive_field import Pair
from mmrfa.ops.recompute import recompute


def sum_over_taps(
    y: Tensor, weight: Tensor, bias: Tensor | None, groups: int
) -> Tensor:
    """The last convolution, on features that were not spread.

    Args:
        y (Tensor): (N, C, K, Ho, Wo).
        weight (Tensor): (O, C / groups, kh, kw).
        bias (Tensor | None): (O,).
        groups (int): as in ``F.conv2d``.

    Returns:
        Tensor: (N, O, Ho, Wo), equal to the kernel = stride convolution on
        ``spread(y)``.
    """
    y, weight = _ordered(y, weight, groups)
    flat = weight.flatten(1)
    if groups == 1 and y.device.type == 'cpu':
        # Half the time of a 1x1 convolution, which reorders its input.
        flat = flat.expand(y.size(0), -1, -1)
        out = torch.bmm(flat, y.flatten(3).flatten(1, 2))
        out = out.unflatten(2, y.shape[3:])
        return out if bias is None else out + bias.to(out)[:, None, None]
    y = y.flatten(1, 2)
    return F.conv2d(y, flat[:, :, None, None], bias, groups=groups)


def sum_over_taps_backward(
    grad: Tensor, y: Tensor, weight: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Gradients of ``y`` and ``weight`` of :func:`sum_over_taps`.

    For operators with a backward of their own, below autograd.

    Args:
        grad (Tensor): of the sum, (N, O, Ho, Wo).
        y, weight, groups: as in :func:`sum_over_taps`, of one dtype.
    """
    shape = weight.shape
    ordered, weight = _ordered(y, weight, groups)
    dy, dweight, _ = torch.ops.aten.convolution_backward(
        grad,
        ordered.flatten(1, 2),
        weight.flatten(1)[:, :, None, None],
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        groups,
        [True, True, False],
    )
    dy = dy.unflatten(1, ordered.shape[1:3])
    dweight = dweight.reshape(weight.shape)
    if ordered is not y:
        dy, dweight = dy.transpose(1, 2), dweight.transpose(1, 2)
    return dy, dweight.reshape(shape)


def _ordered(y: Tensor, weight: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Channels and taps of both in the order in which they lie in memory."""
    weight = weight.flatten(2)
    if groups == 1 and y.stride(1) < y.stride(2):
        # Taps before channels: turn the weight, not the features.
        return y.transpose(1, 2), weight.transpose(1, 2)
    return y, weight


def mean_pool(
    x: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Mean of every receptive field, padding counted as zeros.

    Args:
        x (Tensor): (N, C, H, W).
        kernel_size, stride, padding, dilation (tuple[int, int]): in pixels.

    Returns:
        Tensor: (N, C, Ho, Wo), ``receptive_field(x, ...).mean(2)``.
    """
    small = all(2 * p <= k for p, k in zip(padding, kernel_size))
    if dilation == (1, 1) and small:
        return F.avg_pool2d(x, kernel_size, stride, padding)
    channels = x.size(1)
    taps = kernel_size[0] * kernel_size[1]
    weight = x.new_full((channels, 1, *kernel_size), 1 / taps)
    return F.conv2d(
        x, weight, None, stride, padding, dilation, groups=channels
    )


def with_features(
    run: Callable[..., Tensor],
    x: Tensor,
    feature_weight: Tensor,
    feature_bias: Tensor | None,
    norm: nn.Module,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    *params: Tensor,
    relu: bool = True,
) -> Tensor:
    """Run a function of the receptive-field features, keeping only ``x``.

    The features are computed once more in backward; batch norm's running
    statistics move once.

    Args:
        run (Callable): ``run(x, features, *params)`` with features
            (N, C, K, Ho, Wo); it may close over what is not differentiated.
        x (Tensor): (N, C, H, W).
        feature_weight, feature_bias, norm, stride, padding, dilation: as in
            ``receptive_field_features``.
        *params (Tensor): further inputs that ``run`` differentiates.
        relu (bool): whether a ReLU follows the norm. Defaults to True.

    Returns:
        Tensor: what ``run`` returns.
    """
    channels = x.size(1)
    geometry = (stride, padding, dilation, channels)
    shape = (channels, feature_weight.size(0) // channels)
    pure_norm = PureNorm(norm)
    weight, bias = feature_weight, feature_bias
    if not pure_norm.training:
        weight, bias = fold_norm(norm, weight, bias)

    def features(x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        y = F.conv2d(x, weight, bias, *geometry)
        if pure_norm.training:
            y = pure_norm(y)
        if relu:
            y = y.relu()
        return run(x, y.unflatten(1, shape), *rest)

    result = recompute(features, x, weight, *params)
    pure_norm.update()
    return result
