"""The Triton kernels as operators that autograd and compile know.

Importing never fails: :func:`unavailable` says why the kernels are not there.
Triton itself is imported at the first use.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from mmrfa.ops import native_reference
from mmrfa.ops.folding import as_autocast, folded_features
from mmrfa.ops.native_reference import differentiable
from mmrfa.ops.norm import unsupported_norm
from mmrfa.ops.receptive_field import Pair, out_size
from mmrfa.ops.recompute import recompute
from mmrfa.ops.triton_configs import configs

OLDEST = (3, 7)  # that the tests have run with
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LONGEST = 7  # kernel side: the loops over taps are unrolled
# A sum over positions is cut into pieces of at least this many positions,
# and into no more programs than fill a large GPU.
SHORTEST_SPAN = 512
MOST_PROGRAMS = 1024


@cache
def unavailable() -> str | None:
    """Import Triton; None, or why the kernels cannot be used here."""
    try:
        import triton
    except ImportError as error:
        return f'triton does not import ({error}); pip install triton'
    if tuple(map(int, triton.__version__.split('.')[:2])) < OLDEST:
        oldest = '.'.join(map(str, OLDEST))
        return f'needs triton {oldest} or newer, got {triton.__version__}'
    return None


@cache
def kernels():
    """The module of the kernels, which imports triton."""
    from mmrfa.ops import triton_kernels

    return triton_kernels


def unsupported(x: Tensor, weight: Tensor, norm: object) -> str | None:
    """Why the kernels cannot run on this input, or None."""
    reason = unavailable()
    if reason is not None:
        return reason
    simulated = x.device.type == 'cpu' and kernels().INTERPRETED
    if not x.is_cuda and not simulated:
        return (
            f'needs a CUDA tensor, got one on {x.device} (a CPU simulates '
            'the kernels with TRITON_INTERPRET=1)'
        )
    if x.dtype not in DTYPES:
        return f'needs float32, float16 or bfloat16, got {x.dtype}'
    if max(weight.shape[2:]) > LONGEST:
        return (
            f'needs a kernel of at most {LONGEST}x{LONGEST}, got '
            f'{weight.size(2)}x{weight.size(3)}'
        )
    if x.numel() == 0:
        return 'needs at least one image'
    return unsupported_norm(norm)


# Launching ----------------------------------------------------------------


def channels_last(x: Tensor) -> bool:
    """Whether neighbouring threads take neighbouring channels."""
    return x.stride(1) == 1 and x.size(1) > 1


def is_wide(*tensors: Tensor) -> bool:
    """Whether an offset in one of the tensors may need more than 31 bits."""
    return any(
        sum((n - 1) * s for n, s in zip(t.shape, t.stride())) >= 2**31
        for t in tensors
    )


def planes(x: Tensor, count: int, height: int, width: int) -> Tensor:
    """Uninitialised (N, C, count, height, width) in the layout of x.

    With channels last, the planes lie outside of the channels: neighbouring
    threads then write neighbouring values.
    """
    n, c = x.shape[:2]
    if channels_last(x):
        y = x.new_empty(n, height, width, count, c)
        return y.permute(0, 4, 3, 1, 2)
    return x.new_empty(n, c, count, height, width)


def last_channel(vectors: Tensor) -> Tensor:
    """(C, ...) as the kernels read it: (..., C)."""
    return vectors.movedim(0, -1).contiguous()


def common(x: Tensor, kernel, stride, padding, dilation) -> dict:
    """The arguments that every kernel takes."""
    height, width = out_size(x, kernel, stride, padding, dilation)
    names = 'KH', 'KW', 'SH', 'SW', 'PH', 'PW', 'DH', 'DW'
    values = (*kernel, *stride, *padding, *dilation)
    return dict(
        x=x,
        CHANNELS=x.size(1),
        height=x.size(2),
        width=x.size(3),
        out_height=height,
        out_width=width,
        **strides('x', x),
        **dict(zip(names, values)),
    )


def strides(prefix: str, tensor: Tensor) -> dict[str, int]:
    """Arguments like xn, xc, xh, xw, and xt for the planes of five dims."""
    axes = 'nchw' if tensor.dim() == 4 else 'ncthw'
    return {prefix + a: s for a, s in zip(axes, tensor.stride())}


def pieces(x: Tensor, positions: int) -> tuple[int, int]:
    """How a sum over positions is cut: length and number of the pieces."""
    blocks = -(-x.size(1) // 32) if channels_last(x) else x.size(1)
    number = min(positions // SHORTEST_SPAN, MOST_PROGRAMS // blocks)
    span = -(-positions // max(1, number))
    span = -(-span // SHORTEST_SPAN) * SHORTEST_SPAN  # whole tiles
    return span, -(-positions // span)


def start(kernel: str, arguments: dict) -> None:
    """Run a kernel with the tile that is best, or simulated the first."""
    taps = arguments['KH'] * arguments['KW']
    last = channels_last(arguments['x'])

    def grid(tile: dict) -> tuple[int, int, int]:
        step = arguments.get('span', tile['BLOCK_P'])
        return (
            -(-arguments['count'] // step),
            -(-arguments['CHANNELS'] // tile['BLOCK_C']),
            -(-taps // tile.get('ROWS', taps)),
        )

    if kernels().INTERPRETED:
        # The largest: what takes time here is the number of programs.
        largest = max(
            configs(kernel, last, taps),
            key=lambda tile: (tile['BLOCK_C'], tile['BLOCK_P']),
        )
        getattr(kernels(), kernel)[grid](**arguments, **largest)
        return
    with torch.cuda.device(arguments['x'].device):
        tuned(kernel, last, taps)[grid](**arguments)


@cache
def tuned(kernel: str, last: bool, taps: int):
    """A kernel as Triton's tuner runs it: measured once for every key."""
    import triton

    choices = []
    for choice in configs(kernel, last, taps):
        options = {k: choice.pop(k) for k in ('num_warps', 'maxnreg')}
        choices.append(triton.Config(choice, **options))
    key = ['CHANNELS', 'count', 'height', 'width', 'ATTEND', 'FROM_X']
    key += ['KH', 'KW', 'SH', 'SW', 'DH', 'DW']
    return triton.autotune(choices, key, cache_results=True)(
        getattr(kernels(), kernel)
    )


# rf_features: features, weighted by attention if there is a gain ----------


def features(
    x: Tensor,
    gain: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """Compute ``native_reference.rf_weighted``.

    Args:
        x (Tensor): (N, C, H, W), float32, float16 or bfloat16.
        gain (Tensor | None): g, (C, K), float32.
        weight (Tensor): v, (C, K, K), float32, norm folded into it.
        shift (Tensor): b, (C, K), float32.
        kernel, stride, padding, dilation (list[int]): two each, in pixels.

    Returns:
        Tensor: (N, C, K, Ho, Wo), dtype of x. Where the channels of x lie
        last in memory, so do these, and the taps before them.
    """
    y = features_fake(
        x, gain, weight, shift, kernel, stride, padding, dilation
    )
    arguments = common(x, kernel, stride, padding, dilation)
    arguments |= dict(
        gain=None if gain is None else last_channel(gain),
        weight=last_channel(weight),
        shift=last_channel(shift),
        y=y,
        **strides('y', y),
        count=x.size(0) * y.size(3) * y.size(4),
        ATTEND=gain is not None,
        WIDE=is_wide(x, y),
    )
    start('features', arguments)
    return y


def features_fake(
    x, gain, weight, shift, kernel, stride, padding, dilation
) -> Tensor:
    size = out_size(x, kernel, stride, padding, dilation)
    return planes(x, kernel[0] * kernel[1], *size)


def features_backward(
    grad: Tensor,
    x: Tensor,
    gain: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, gain (empty without one), weight and shift.

    The gradient of the activations is written down once, as large as
    ``grad``; that of x gathers it, without atomics, and that of weight and
    shift sums it in pieces: equal inputs give equal gradients.
    """
    taps = kernel[0] * kernel[1]
    channels = x.size(1)
    attends = gain is not None
    arguments = common(x, kernel, stride, padding, dilation)
    height, width = arguments['out_height'], arguments['out_width']
    z = planes(x, taps + attends, height, width)
    outputs = x.size(0) * height * width
    span, number = pieces(x, outputs)
    wide = is_wide(x, z, grad)
    gain_sums = x.new_empty(
        number if attends else 0, taps, channels, dtype=torch.float32
    )
    folded = last_channel(weight)
    start(
        'features_backward',
        arguments
        | dict(
            grad=grad,
            **strides('g', grad),
            gain=last_channel(gain) if attends else None,
            weight=folded,
            shift=last_channel(shift),
            z=z,
            **strides('z', z),
            gain_sums=gain_sums,
            count=outputs,
            span=span,
            PAD=1 << (taps - 1).bit_length(),
            ATTEND=attends,
            WIDE=wide,
        ),
    )
    sums = x.new_empty(number, taps, taps + 1, channels, dtype=torch.float32)
    start(
        'outer_sums',
        arguments
        | dict(
            z=z,
            **strides('z', z),
            centre=None,
            sums=sums,
            count=outputs,
            span=span,
            FROM_X=False,
            WIDE=wide,
        ),
    )
    dx = torch.empty_like(x)
    start(
        'input_gradient',
        arguments
        | dict(
            z=z,
            **strides('z', z),
            weight=folded,
            vector=None,
            dx=dx,
            **strides('d', dx),
            count=x.size(0) * x.size(2) * x.size(3),
            FROM_X=False,
            ATTEND=attends,
            WIDE=wide,
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
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
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
    span, number = pieces(x, outputs)
    centre = x.mean((0, 2, 3), dtype=torch.float32)
    sums = x.new_empty(number, taps, taps + 1, x.size(1), dtype=torch.float32)
    start(
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
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    """Gradient of x: each value of the field counts in both factors."""
    arguments = common(x, kernel, stride, padding, dilation)
    outputs = x.size(0) * arguments['out_height'] * arguments['out_width']
    weight = (grad_covariance + grad_covariance.transpose(1, 2)) / outputs
    centre = mean.mean(1, keepdim=True)
    constant = grad_mean / outputs
    constant = constant - ((mean - centre).unsqueeze(1) @ weight).squeeze(1)
    dx = torch.empty_like(x)
    start(
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
            WIDE=is_wide(x),
        ),
    )
    return dx


def moments_backward_fake(grad_mean, grad_covariance, x, *rest):
    return torch.empty_like(x)


# The operators --------------------------------------------------------------


def _operator(run, fake) -> torch.library.CustomOpDef:
    name = f'mmrfa_triton::rf_{run.__name__}'
    op = torch.library.custom_op(name, run, mutates_args=())
    op.register_fake(fake)
    return op


rf_features = _operator(features, features_fake)
rf_features_backward = _operator(features_backward, features_backward_fake)
rf_moments = _operator(moments, moments_fake)
rf_moments_backward = _operator(moments_backward, moments_backward_fake)


def _features_context(ctx, inputs, output) -> None:
    x, gain, weight, shift, *ctx.geometry = inputs
    ctx.save_for_backward(x, gain, weight, shift)


def _features_gradients(ctx, grad: Tensor):
    x, gain, weight, shift = ctx.saved_tensors
    inputs = (x, gain, weight, shift, *ctx.geometry)
    if torch.is_grad_enabled():
        return differentiable(native_reference.rf_weighted, inputs, grad)
    dx, dgain, dweight, dshift = rf_features_backward(grad, *inputs)
    return dx, None if gain is None else dgain, dweight, dshift, *[None] * 4


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


rf_features.register_autograd(
    _features_gradients, setup_context=_features_context
)
rf_moments.register_autograd(
    _moments_gradients, setup_context=_moments_context
)


# What the `triton` forms share ----------------------------------------------


def with_folded(
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
    """Run a function of the input and the folded features, keeping ``x``.

    Args:
        run (Callable): ``run(x, v, b, *params)``, with v and b of
            ``folding.folded_features``; computed once more in backward. It
            may close over what is not differentiated.
        x, feature_weight, feature_bias, norm, stride, padding, dilation,
            *params: as in ``fused.with_features``.

    Returns:
        Tensor: what ``run`` returns.
    """
    x = as_autocast(x)
    geometry = (stride, padding, dilation)
    folded, shift, update = folded_features(
        rf_moments, x, feature_weight, feature_bias, norm, *geometry
    )
    result = recompute(run, x, folded, shift, *params)
    update()
    return result


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
    geometry = (stride, padding, dilation)
    kernel_size = feature_weight.shape[2:]

    def compute(
        x: Tensor, folded: Tensor, shift: Tensor, *rest: Tensor
    ) -> Tensor:
        y = rf_features(x, None, folded, shift, kernel_size, *geometry)
        return run(x, y, *rest)

    return with_folded(
        compute, x, feature_weight, feature_bias, norm, *geometry, *params
    )
