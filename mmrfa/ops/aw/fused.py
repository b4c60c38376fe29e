"""AWConv sample by sample; any device, dtype and batch."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.aw import by_maps, reference
from mmrfa.ops.aw.reference import (
    WeightAttention,
    expanded,
    spread,
    weight_attention,
)
from mmrfa.ops.common.autocast import as_autocast
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.tracing import is_compiling, is_exporting
from mmrfa.ops.common.window import Window, like_input, receptive_field


def supports(*args, **kwargs) -> None:
    """It takes whatever is valid."""


def on_cpu_or_in_exports(x: Tensor) -> str | None:
    """Why it is not taken where nothing was named, or None."""
    if is_exporting():
        return None
    if is_compiling():
        return 'compilers would unroll the samples'
    return None if x.device.type == 'cpu' else 'not measured on this device'


def aw_conv2d(
    x: Tensor,
    attention: WeightAttention,
    conv: Conv,
    window: Window,
    gated: Tensor | None = None,
) -> Tensor:
    """Compute ``reference.aw_conv2d``, keeping no weight of a sample.

    Weight and attention of one sample at a time fit a cache; those of all,
    N times as large as the weight, go through memory several times.
    """
    if is_exporting() or is_compiling():
        return _as_product(x, attention, conv, window, gated)
    if x.size(0) == 0:
        return reference.aw_conv2d(x, attention, conv, window, gated)
    weight, bias, groups = conv
    maps = _maps(x, attention, weight.shape)
    if weight.size(1) % maps.size(2):
        maps = spread(maps, weight.size(1))
    x = x if gated is None else gated
    _, *geometry = window
    out_size = window.out_size(x)
    if by_maps.is_less_work(x, maps, math.prod(out_size), groups):
        y = by_maps.AttendedByMaps.apply(
            as_autocast(x), weight, maps, geometry, out_size
        )
    else:
        geometry = *geometry, groups
        y = _Attended.apply(as_autocast(x), weight, maps, geometry)
    y = y if bias is None else y + bias.to(y.dtype).view(1, -1, 1, 1)
    return like_input(y, x)


def _maps(
    x: Tensor, layers: WeightAttention, weight_shape: torch.Size
) -> Tensor:
    """Compute ``reference.attention_maps``.

    The fan-out, whose groups have one channel each, as products of them all:
    its convolution would take group by group.
    """
    hidden = expanded(x, layers, weight_shape[2:])
    weight, bias, groups = layers.fan_out
    scores = torch.baddbmm(
        bias.view(groups, -1, 1),
        weight.view(groups, -1, 1),
        hidden.transpose(0, 1).reshape(groups, 1, -1),
    )
    scores = scores.unflatten(2, (x.size(0), *weight_shape[2:]))
    return scores.movedim(2, 0).sigmoid()


class _Attended(torch.autograd.Function):
    """The convolution of every sample with its own attended weight.

    x (N, C, H, W), weight (O, I, kh, kw), maps (N, O, M, kh, kw), each
    for I / M neighbours, and stride, padding, dilation and groups give
    (N, O, Ho, Wo).
    """

    @staticmethod
    def forward(ctx, x, weight, maps, geometry):
        ctx.save_for_backward(x, weight, maps)
        ctx.geometry = geometry
        outs = [
            F.conv2d(sample, attended, None, *geometry)
            for sample, attended in zip(x.split(1), _weights(x, weight, maps))
        ]
        return torch.cat(outs)

    @staticmethod
    def backward(ctx, grad):
        x, weight, maps = ctx.saved_tensors
        wide = torch.promote_types(weight.dtype, torch.float32)
        served = _served(weight, maps)
        grad_weight, grads_x, grads_maps = None, [], []
        for sample, attended, own, dy in zip(
            x.split(1), _weights(x, weight, maps), maps, grad.split(1)
        ):
            dx, dw = _convolution_backward(
                dy, sample, attended, ctx.geometry, ctx.needs_input_grad[0]
            )
            grads_x.append(dx)
            dw = dw.to(wide).view(served.shape)
            scale = own.unsqueeze(2).to(wide)
            # In place of what came from ``grad``, which may stand for several.
            if grad_weight is None:
                grad_weight = dw * scale
            else:
                grad_weight.addcmul_(dw, scale)
            products = (
                dw * served if torch.is_grad_enabled() else dw.mul_(served)
            )
            grads_maps.append(products.sum(2).to(own.dtype))
        grad_x = torch.cat(grads_x) if ctx.needs_input_grad[0] else None
        grad_weight = grad_weight.view(weight.shape).to(weight.dtype)
        return grad_x, grad_weight, torch.stack(grads_maps), None


def _convolution_backward(
    dy: Tensor, x: Tensor, weight: Tensor, geometry: tuple, wants_x: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of x, if it is wanted, and of the weight, of one sample."""
    stride, padding, dilation, groups = geometry
    # oneDNN's is slow where the weight is larger than the patches.
    product = groups == 1 and dy[0, 0].numel() <= weight.size(0)
    dx, dw, _ = torch.ops.aten.convolution_backward(
        dy,
        x,
        weight,
        None,
        stride,
        padding,
        dilation,
        False,
        [0, 0],
        groups,
        [wants_x, not product, False],
    )
    if product:
        size = weight.shape[2:]
        patches = F.unfold(x, size, dilation, padding, stride)[0]
        dw = (dy[0].flatten(1) @ patches.T).view(weight.shape)
    return dx, dw


def _served(weight: Tensor, maps: Tensor) -> Tensor:
    """The weight as (O, M, I / M, kh, kw), by the maps that serve it."""
    return weight.unflatten(1, (maps.size(2), -1))


def _weights(x: Tensor, weight: Tensor, maps: Tensor) -> Iterator[Tensor]:
    """The weight times the maps of every sample, each in the same memory."""
    served = _served(weight, maps)
    dtype = torch.promote_types(weight.dtype, maps.dtype)
    memory = torch.empty_like(served, dtype=dtype)
    for own in maps:
        out = None if torch.is_grad_enabled() else memory
        found = torch.mul(served, own.unsqueeze(2), out=out)
        yield found.view(weight.shape).to(x.dtype)


def _as_product(
    x: Tensor,
    attention: WeightAttention,
    conv: Conv,
    window: Window,
    gated: Tensor | None,
) -> Tensor:
    """One matrix product a sample, for programs.

    The number of groups of the reference depends on the batch, which programs
    for a batch of any size do not allow.
    """
    weight, bias, groups = conv
    weights = weight * weight_attention(x, attention, weight.shape)
    x = x if gated is None else gated
    # In full: with no image in the batch, -1 could be any size.
    n, out, taps = x.size(0), weight.size(0), weight[0].numel()
    field = receptive_field(x, window)
    pixels = field.size(3) * field.size(4)
    y = torch.matmul(
        weights.reshape(n, groups, out // groups, taps),
        field.reshape(n, groups, taps, pixels),
    )
    y = y.reshape(n, out, field.size(3), field.size(4))
    y = y if bias is None else y + bias.to(y.dtype).view(1, -1, 1, 1)
    return like_input(y, x)
