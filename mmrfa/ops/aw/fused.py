"""AWConv sample by sample; any device, dtype and batch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.aw import reference
from mmrfa.ops.aw.reference import (
    WeightAttention,
    attention_maps,
    map_of_input,
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
    maps = attention_maps(x, attention, weight.shape)
    x = x if gated is None else gated
    served = map_of_input(maps, weight.shape)
    _, *geometry = window
    geometry = *geometry, groups
    y = _Attended.apply(as_autocast(x), weight, maps, served, geometry)
    y = y if bias is None else y + bias.to(y.dtype).view(1, -1, 1, 1)
    return like_input(y, x)


class _Attended(torch.autograd.Function):
    """The convolution of every sample with its own attended weight.

    x (N, C, H, W), weight (O, I, kh, kw), maps (N, O, M, kh, kw), served
    (I,) and stride, padding, dilation and groups give (N, O, Ho, Wo).
    """

    @staticmethod
    def forward(ctx, x, weight, maps, served, geometry):
        ctx.save_for_backward(x, weight, maps, served)
        ctx.geometry = geometry
        outs = []
        for sample, own in zip(x.split(1), maps):
            attended = weight * own.index_select(1, served)
            attended = attended.to(x.dtype)
            outs.append(F.conv2d(sample, attended, None, *geometry))
        return torch.cat(outs)

    @staticmethod
    def backward(ctx, grad):
        x, weight, maps, served = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_weight, grads_x, grads_maps = 0, [], []
        for sample, own, dy in zip(x.split(1), maps, grad.split(1)):
            attention = own.index_select(1, served)
            dx, dw, _ = torch.ops.aten.convolution_backward(
                dy,
                sample,
                (weight * attention).to(x.dtype),
                None,
                stride,
                padding,
                dilation,
                False,
                [0, 0],
                groups,
                [ctx.needs_input_grad[0], True, False],
            )
            dw = dw.to(wide)
            grads_x.append(dx)
            of_taps = (dw * weight).double()  # they cancel
            of_maps = of_taps.new_zeros(own.shape)
            of_maps = of_maps.index_add(1, served, of_taps)
            grads_maps.append(of_maps.to(own.dtype))
            grad_weight = grad_weight + dw * attention
        grad_x = torch.cat(grads_x) if ctx.needs_input_grad[0] else None
        grad_weight = grad_weight.to(weight.dtype)
        return grad_x, grad_weight, torch.stack(grads_maps), None, None


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
