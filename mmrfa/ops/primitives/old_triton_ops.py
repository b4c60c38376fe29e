"""Features and statistics of the Triton kernels, as operators.

Autograd and compile know them. The features end in memory: what follows in
RFCBAMConv and RFCAConv is plain PyTorch.
"""

from collections.abc import Callable
from typing import List  # noqa: UP035

import torch
from torch import Tensor, nn

from mmrfa.ops import native_reference, triton_launch
from mmrfa.ops.folding import as_autocast, folded_features
from mmrfa.ops.native_build import old_torch
from mmrfa.ops.native_reference import differentiable
from mmrfa.ops.receptive_field import Pair, out_size
from mmrfa.ops.recompute import recompute
from mmrfa.ops.triton_launch import (
    channels_last,
    common,
    is_wide,
    last_channel,
    pieces,
    planes,
    strides,
)

# An older torch (seen: 2.6) reads no other spelling in a signature.
Ints = List[int]  # noqa: UP006
# Programs that share a sum over positions, no more than fill a large GPU.
MOST_PROGRAMS = 1024


def columns(x: Tensor) -> int:
    """Programs side by side, which the channels make."""
    return -(-x.size(1) // 32) if channels_last(x) else x.size(1)


# rf_features: features, weighted by attention if there is a gain ----------


def features(
    x: Tensor,
    gain: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    unfold: bool = False,
) -> Tensor:
    """Compute ``native_reference.rf_weighted``.

    Args:
        x (Tensor): (N, C, H, W), float32, float16 or bfloat16.
        gain (Tensor | None): g, (C, K), float32.
        weight (Tensor): v, (C, K, K), float32, norm folded into it.
        shift (Tensor): b, (C, K), float32.
        kernel, stride, padding, dilation (list[int]): two each, in pixels.
        unfold (bool): weight U by a softmax of its own, instead of features.

    Returns:
        Tensor: (N, C, K, Ho, Wo), dtype of x. Where the channels of x lie
        last in memory, so do these, and the taps before them.
    """
    geometry = (kernel, stride, padding, dilation)
    y = planes(x, kernel[0] * kernel[1], *out_size(x, *geometry))
    arguments = common(x, *geometry)
    arguments |= dict(
        gain=None if gain is None else last_channel(gain),
        weight=last_channel(weight),
        shift=last_channel(shift),
        y=y,
        **strides('y', y),
        count=x.size(0) * y.size(3) * y.size(4),
        ATTEND=gain is not None,
        UNFOLD=unfold,
        WIDE=is_wide(x, y),
    )
    triton_launch.start('features', arguments)
    return y


def features_fake(
    x, gain, weight, shift, kernel, stride, padding, dilation, unfold=False
) -> Tensor:
    size = out_size(x, kernel, stride, padding, dilation)
    return planes(x, kernel[0] * kernel[1], *size)


def features_backward(
    grad: Tensor,
    x: Tensor,
    gain: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    unfold: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gain (empty without one), weight and shift.

    The gradient of the activations is written down once, as large as
    ``grad``; that of x gathers it, without atomics, and that of weight and
    shift sums it in pieces: equal inputs give equal gradients.
    """
    geometry = (kernel, stride, padding, dilation)
    return gradients(x, gain, weight, shift, geometry, unfold, grad)


def gradients(
    x: Tensor,
    gain: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    geometry: tuple,
    unfold: bool,
    grad: Tensor,
    taps_last: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do what :func:`features_backward` does.

    Args:
        x, gain, weight, shift, geometry, unfold: of :func:`features`, which
            takes the geometry one by one.
        grad (Tensor): of the features, or, with ``taps_last``, of the last
            sum: (N, Ho, Wo, O), without gaps.
        taps_last (Tensor | None): W, (K, C, O), dtype of x.
    """
    taps = geometry[0][0] * geometry[0][1]
    channels = x.size(1)
    attends = gain is not None
    arguments = common(x, *geometry)
    height, width = arguments['out_height'], arguments['out_width']
    more = taps if unfold else int(attends)
    z = planes(x, taps + more, height, width)
    outputs = x.size(0) * height * width
    span, number = pieces(x, outputs, MOST_PROGRAMS // columns(x))
    wide = is_wide(x, z, grad)
    gain_sums = x.new_empty(
        number if attends else 0, taps, channels, dtype=torch.float32
    )
    folded = last_channel(weight)
    arguments |= dict(z=z, **strides('z', z), WIDE=wide)
    first = arguments | dict(
        grad=grad, weight=folded, shift=last_channel(shift), count=outputs
    )
    if unfold:
        triton_launch.start('unfold_backward', first | strides('g', grad))
    else:
        first |= dict(
            gain=last_channel(gain) if attends else None,
            gain_sums=gain_sums,
            span=span,
            taps=taps_last,
            PAD=1 << (taps - 1).bit_length(),
            ATTEND=attends,
        )
        if taps_last is None:
            first |= dict(OUTPUTS=0, **strides('g', grad))
            triton_launch.start('features_backward', first)
        else:
            first |= dict.fromkeys(('gn', 'gc', 'gt', 'gh', 'gw'), 0)
            first |= dict(OUTPUTS=taps_last.size(2))
            triton_launch.start('conv_input', first)
    sums = x.new_empty(number, taps, taps + 1, channels, dtype=torch.float32)
    triton_launch.start(
        'outer_sums',
        arguments
        | dict(centre=None, sums=sums, count=outputs, span=span, FROM_X=False),
    )
    dx = torch.empty_like(x)
    triton_launch.start(
        'input_gradient',
        arguments
        | dict(
            weight=folded,
            vector=None,
            dx=dx,
            **strides('d', dx),
            count=x.size(0) * x.size(2) * x.size(3),
            FROM_X=False,
            ATTEND=attends,
            UNFOLD=unfold,
        ),
    )
    sums = sums.sum(0).movedim(2, 0)
    dgain = gain_sums.sum(0).t() if attends else gain_sums.view(-1)
    whole = torch.contiguous_format
    return (
        dx,
        dgain.clone(memory_format=whole),
        sums[:, :, :taps].clone(memory_format=whole),
        sums[:, :, taps].clone(memory_format=whole),
    )


def features_backward_fake(grad, x, gain, weight, shift, *geometry):
    return (
        torch.empty_like(x),
        x.new_empty(0, dtype=torch.float32)
        if gain is None
        else weight.new_empty(gain.shape),
        weight.new_empty(weight.shape),
        weight.new_empty(shift.shape),
    )


# rf_moments: mean and covariance of the receptive field -------------------


def moments(
    x: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> tuple[Tensor, Tensor]:
    """Compute ``native_reference.rf_moments``.

    Products are summed in float32, of values less the mean of their channel:
    then little cancels when the mean of the field is taken off.

    Args:
        x, kernel, stride, padding, dilation: as in :func:`features`.

    Returns:
        tuple[Tensor, Tensor]: mean (C, K) and covariance (C, K, K), float64.
    """
    taps = kernel[0] * kernel[1]
    arguments = common(x, kernel, stride, padding, dilation)
    outputs = x.size(0) * arguments['out_height'] * arguments['out_width']
    span, number = pieces(x, outputs, MOST_PROGRAMS // columns(x))
    centre = x.mean((0, 2, 3), dtype=torch.float32)
    sums = x.new_empty(number, taps, taps + 1, x.size(1), dtype=torch.float32)
    triton_launch.start(
        'outer_sums',
        arguments
        | dict(
            z=None,
            **dict.fromkeys(('zn', 'zc', 'zt', 'zh', 'zw'), 0),
            centre=centre,
            sums=sums,
            count=outputs,
            span=span,
            FROM_X=True,
            WIDE=is_wide(x),
        ),
    )
    sums = sums.sum(0, dtype=torch.float64).movedim(2, 0).contiguous()
    sums = sums / outputs
    shift = sums[:, :, taps]
    covariance = sums[:, :, :taps] - shift.unsqueeze(2) * shift.unsqueeze(1)
    return centre.unsqueeze(1) + shift, covariance.contiguous()


def moments_fake(x, kernel, stride, padding, dilation):
    channels, taps = x.size(1), kernel[0] * kernel[1]
    mean = x.new_empty(channels, taps, dtype=torch.float64)
    return mean, mean.new_empty(channels, taps, taps)


def moments_backward(
    grad_mean: Tensor,
    grad_covariance: Tensor,
    x: Tensor,
    mean: Tensor,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
) -> Tensor:
    """Gradient of x: each value of the field counts in both factors."""
    arguments = common(x, kernel, stride, padding, dilation)
    outputs = x.size(0) * arguments['out_height'] * arguments['out_width']
    weight = (grad_covariance + grad_covariance.transpose(1, 2)) / outputs
    centre = mean.mean(1, keepdim=True)
    constant = grad_mean / outputs
    constant = constant - ((mean - centre).unsqueeze(1) @ weight).squeeze(1)
    dx = torch.empty_like(x)
    triton_launch.start(
        'input_gradient',
        arguments
        | dict(
            z=None,
            **dict.fromkeys(('zn', 'zc', 'zt', 'zh', 'zw'), 0),
            weight=last_channel(weight.float()),
            vector=last_channel(torch.cat((constant, centre), 1).float()),
            dx=dx,
            **strides('d', dx),
            count=x.size(0) * x.size(2) * x.size(3),
            FROM_X=True,
            ATTEND=False,
            UNFOLD=False,
            WIDE=is_wide(x),
        ),
    )
    return dx


def moments_backward_fake(grad_mean, grad_covariance, x, *rest):
    return torch.empty_like(x)


# The operators --------------------------------------------------------------


def operator(
    run: Callable,
    fake: Callable,
    gradients: Callable | None = None,
    context: Callable | None = None,
) -> Callable:
    """``run`` as ``mmrfa_triton::rf_...``: what it returns, its gradients.

    A torch that knows no such operators gets ``run`` itself, which
    :func:`triton_launch.unavailable` keeps from being used.
    """
    if old_torch(torch.__version__):
        return run
    name = f'mmrfa_triton::rf_{run.__name__}'
    op = torch.library.custom_op(name, run, mutates_args=())
    op.register_fake(fake)
    if gradients is not None:
        op.register_autograd(gradients, setup_context=context)
    return op


def _features_context(ctx, inputs, output) -> None:
    x, gain, weight, shift, *ctx.geometry = inputs
    ctx.save_for_backward(x, gain, weight, shift)


def _features_gradients(ctx, grad: Tensor):
    x, gain, weight, shift = ctx.saved_tensors
    inputs = (x, gain, weight, shift, *ctx.geometry)
    if torch.is_grad_enabled():
        return differentiable(native_reference.rf_weighted, inputs, grad)
    dx, dgain, dweight, dshift = rf_features_backward(grad, *inputs)
    return dx, None if gain is None else dgain, dweight, dshift, *[None] * 5


def _moments_context(ctx, inputs, output) -> None:
    x, *ctx.geometry = inputs
    ctx.save_for_backward(x, output[0])


def _moments_gradients(ctx, grad_mean: Tensor, grad_covariance: Tensor):
    x, mean = ctx.saved_tensors
    grads = (grad_mean, grad_covariance)
    if torch.is_grad_enabled():
        inputs = (x, *ctx.geometry)
        return differentiable(native_reference.rf_moments, inputs, grads)
    return rf_moments_backward(*grads, x, mean, *ctx.geometry), *[None] * 4


rf_features = operator(
    features, features_fake, _features_gradients, _features_context
)
rf_features_backward = operator(features_backward, features_backward_fake)
rf_moments = operator(
    moments, moments_fake, _moments_gradients, _moments_context
)
rf_moments_backward = operator(moments_backward, moments_backward_fake)


# What the `triton` forms share ----------------------------------------------


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
) -> Tensor:
    """Do what ``fused.with_features`` does, with features of the kernels."""
    x = as_autocast(x)
    kernel_size = feature_weight.shape[2:]
    geometry = (stride, padding, dilation)
    folded, shift, update = folded_features(
        rf_moments, x, feature_weight, feature_bias, norm, *geometry
    )

    def compute(
        x: Tensor, folded: Tensor, shift: Tensor, *rest: Tensor
    ) -> Tensor:
        y = rf_features(x, None, folded, shift, kernel_size, *geometry)
        return run(x, y, *rest)

    result = recompute(compute, x, folded, shift, *params)
    update()
    return result
