"""The compiled CPU kernels as operators that autograd and compile know.

Importing never fails: :func:`unavailable` says why the kernels are not there.
"""

from functools import cache

import torch
from torch import Tensor

from mmrfa.ops import native_build, native_reference
from mmrfa.ops.native_reference import differentiable
from mmrfa.ops.receptive_field import out_size

OPERATORS = (
    'rf_conv',
    'rf_channel_pool',
    'rf_line_pool',
    'rf_moments',
)


@cache
def unavailable() -> str | None:
    """Load the kernels; None, or why they cannot be used here."""
    reason = native_build.old_torch(torch.__version__)
    if reason is not None:
        return reason
    folder = native_build.FOLDER
    stem = native_build.library_stem(torch.__version__)
    found = sorted(folder.glob(f'{stem}.*'))
    if not found:
        others = sorted(
            file.name for file in folder.glob(f'{native_build.PREFIX}*')
        )
        if others:
            return (
                f'its library was built for another torch ({others[0]}), '
                f'this is torch {torch.__version__}; reinstall mmrfa'
            )
        return (
            'its library was not built: install mmrfa from source where '
            'torch and a C++ compiler are there, without build isolation'
        )
    try:
        torch.ops.load_library(found[0])
    except (OSError, RuntimeError) as error:
        return f'its library does not load: {str(error).splitlines()[0]}'
    operators = torch.ops.mmrfa
    digest = native_build.sources_digest()
    # An older library has no such operator.
    if digest and (
        not hasattr(operators, 'sources_digest')
        or operators.sources_digest() != digest
    ):
        return (
            f'its library ({found[0].name}) was built from other sources '
            'than those beside it; reinstall mmrfa'
        )
    if not operators.instruction_set():
        return 'this CPU has neither AVX2 nor AVX-512'
    _register()
    return None


def _register() -> None:
    """Teach torch the shapes and gradients of the operators."""
    for name in OPERATORS:
        torch.library.register_autograd(
            f'mmrfa::{name}',
            globals()[f'_{name}_backward'],
            setup_context=globals()[f'_{name}_context'],
        )
        torch.library.register_fake(
            f'mmrfa::{name}', globals()[f'_{name}_shape']
        )
        torch.library.register_fake(
            f'mmrfa::{name}_backward', globals()[f'_{name}_backward_shape']
        )


# rf_conv: weighted features and last convolution -------------------------


def _rf_conv_shape(
    x,
    gain,
    feature_weight,
    shift,
    weight,
    bias,
    first,
    second,
    stride,
    padding,
    dilation,
    groups,
    unfold,
):
    size = out_size(x, weight.shape[2:], stride, padding, dilation)
    out = x.new_empty(x.size(0), weight.size(0), *size)
    if x.is_contiguous(memory_format=torch.channels_last) and (
        not x.is_contiguous()
    ):
        out = out.contiguous(memory_format=torch.channels_last)
    return out


def _rf_conv_context(ctx, inputs, output) -> None:
    x, gain, feature_weight, shift, weight, bias, *gates = inputs[:8]
    ctx.save_for_backward(x, gain, feature_weight, shift, weight, *gates)
    ctx.geometry = inputs[8:]
    ctx.bias_dtype = None if bias is None else bias.dtype


def _rf_conv_backward(ctx, grad: Tensor):
    *saved, first, second = ctx.saved_tensors
    rest = (first, second, *ctx.geometry)
    if torch.is_grad_enabled():
        bias = None
        if ctx.bias_dtype is not None:
            bias = grad.new_zeros(grad.size(1)).requires_grad_()
        inputs = (*saved, bias, *rest)
        return differentiable(native_reference.rf_conv, inputs, grad)
    found = torch.ops.mmrfa.rf_conv_backward(grad, *saved, *rest)
    dx, dgain, dfeature, dshift, dweight, *dgates = found
    dbias = None
    if ctx.bias_dtype is not None:
        dbias = grad.sum((0, 2, 3)).to(ctx.bias_dtype)
    if saved[1] is None:
        dgain = None
    if first is None:
        dgates = None, None
    return dx, dgain, dfeature, dshift, dweight, dbias, *dgates, *[None] * 5


def _rf_conv_backward_shape(
    grad, x, gain, feature_weight, shift, weight, first, second, *geometry
):
    inputs = (x, gain, feature_weight, shift, weight, first, second)
    return tuple(
        x.new_empty(0) if value is None else _contiguous_like(value)
        for value in inputs
    )


def _contiguous_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


# rf_channel_pool, rf_line_pool: features reduced at once --------------------


def _rf_channel_pool_shape(x, weight, shift, kernel, *geometry):
    size = out_size(x, kernel, *geometry)
    maximum = shift.new_empty(x.size(0), kernel[0] * kernel[1], *size)
    argument = torch.empty_like(maximum, dtype=torch.int32)
    return maximum, torch.empty_like(maximum), argument


def _rf_channel_pool_context(ctx, inputs, output) -> None:
    x, weight, shift, *ctx.geometry = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(x, weight, shift, output[2])


def _rf_channel_pool_backward(ctx, grad_maximum, grad_mean, _):
    *inputs, argument = ctx.saved_tensors
    inputs = (*inputs, *ctx.geometry)
    if torch.is_grad_enabled():

        def plain(*inputs):
            return native_reference.rf_channel_pool(*inputs)[:2]

        return differentiable(plain, inputs, (grad_maximum, grad_mean))
    found = torch.ops.mmrfa.rf_channel_pool_backward(
        grad_maximum, grad_mean, argument, *inputs
    )
    return *found, *[None] * 4


def _pool_backward_shape(x, weight, shift, *geometry):
    return tuple(_contiguous_like(value) for value in (x, weight, shift))


def _rf_channel_pool_backward_shape(maximum, mean, argument, *inputs):
    return _pool_backward_shape(*inputs)


def _rf_line_pool_shape(x, weight, shift, kernel, *geometry):
    height, width = out_size(x, kernel, *geometry)
    shape = x.shape[:2]
    return (
        shift.new_empty(*shape, kernel[0], height),
        shift.new_empty(*shape, kernel[1], width),
    )


def _rf_line_pool_context(ctx, inputs, output) -> None:
    x, weight, shift, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, shift)


def _rf_line_pool_backward(ctx, *grads: Tensor):
    inputs = (*ctx.saved_tensors, *ctx.geometry)
    if torch.is_grad_enabled():
        return differentiable(native_reference.rf_line_pool, inputs, grads)
    found = torch.ops.mmrfa.rf_line_pool_backward(*grads, *inputs)
    return *found, *[None] * 4


def _rf_line_pool_backward_shape(lines, columns, *inputs):
    return _pool_backward_shape(*inputs)


# rf_moments: mean and covariance of the receptive field -------------------


def _rf_moments_shape(x, kernel, stride, padding, dilation):
    channels, taps = x.size(1), kernel[0] * kernel[1]
    mean = x.new_empty(channels, taps, dtype=torch.float64)
    return mean, mean.new_empty(channels, taps, taps)


def _rf_moments_context(ctx, inputs, output) -> None:
    x, *ctx.geometry = inputs
    ctx.save_for_backward(x, output[0])


def _rf_moments_backward(ctx, grad_mean: Tensor, grad_covariance: Tensor):
    if torch.is_grad_enabled():
        inputs = (ctx.saved_tensors[0], *ctx.geometry)
        grads = (grad_mean, grad_covariance)
        return differentiable(native_reference.rf_moments, inputs, grads)
    grad = torch.ops.mmrfa.rf_moments_backward(
        grad_mean, grad_covariance, *ctx.saved_tensors, *ctx.geometry
    )
    return grad, *[None] * 4


def _rf_moments_backward_shape(grad_mean, grad_covariance, x, *rest):
    return _contiguous_like(x)
