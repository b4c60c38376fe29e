"""The convolutions of AWConv map by map, for outputs of a few pixels."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.autocast import without_autocast


def is_less_work(x: Tensor, maps: Tensor, pixels: int, groups: int) -> bool:
    """Whether it takes less time than to make the weight of every sample.

    A sample's weight has I / M values for each value of its maps, and the
    sums that are weighed here have one for each output pixel, which takes up
    to one and a half times as long as a value of a weight. Below 4 samples
    the products are too thin (benchmarks/results/aw_by_maps.md).

    Args:
        x (Tensor): (N, C, H, W).
        maps (Tensor): (N, O, M, kh, kw).
        pixels (int): of an output image.
        groups (int): of the convolution.
    """
    served = x.size(1) // maps.size(2)
    return groups == 1 and x.size(0) >= 4 and 3 * pixels <= 2 * served


class AttendedByMaps(torch.autograd.Function):
    """The convolution of every sample with its own attended weight.

    ``out_n = sum over maps m and taps t of A_n[m, t] * (W[m, t] @ U_n[m, t])``
    with the weight W and the receptive fields U of the I / M input channels
    that a map serves: the sums of a map are weighed, not the weight.

    x (N, I, H, W), weight (O, I, kh, kw), maps (N, O, M, kh, kw), each
    for I / M neighbours, and stride, padding and dilation give
    (N, O, Ho, Wo).
    """

    @staticmethod
    def forward(ctx, x, weight, maps, geometry, out_size):
        ctx.save_for_backward(x, weight, maps)
        ctx.geometry = geometry
        n = x.size(0)
        y = 0
        for field, own, attention in _by_maps(x, weight, maps, geometry):
            sums = _products(own, field).unflatten(2, (-1, n))
            y = y + (sums * attention).sum(0)
        return y.permute(2, 0, 1).unflatten(2, out_size).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, maps = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        n, (out, inputs, *size) = x.size(0), weight.shape
        taps = size[0] * size[1]
        # No flatten: grad may stand for several, of which that knows nothing.
        dy = grad.reshape(n, out, -1).permute(1, 2, 0).contiguous()
        fields, weights, attentions = [], [], []
        for field, own, attention in _by_maps(x, weight, maps, ctx.geometry):
            sums = _products(own, field).unflatten(2, (-1, n))
            attentions.append((sums * dy).sum(2))
            weighed = (attention * dy).reshape(taps, out, -1)
            weights.append(_products(weighed, field.mT))
            if ctx.needs_input_grad[0]:
                fields.append(_products(own.mT, weighed))
        grad_x = None
        if fields:
            served = inputs // len(fields)
            patches = torch.stack(fields)
            patches = patches.reshape(len(fields), taps, served, -1, n)
            patches = patches.permute(4, 0, 2, 1, 3).reshape(
                n, inputs * taps, -1
            )
            grad_x = F.fold(
                patches, x.shape[2:], size, dilation, padding, stride
            ).to(x.dtype)
        grad_weight = torch.stack(weights).permute(2, 0, 3, 1)
        grad_maps = torch.stack(attentions).permute(3, 2, 0, 1)
        return (
            grad_x,
            grad_weight.reshape(weight.shape).to(weight.dtype),
            grad_maps.reshape(maps.shape).to(maps.dtype),
            None,
            None,
        )


def _by_maps(
    x: Tensor, weight: Tensor, maps: Tensor, geometry: tuple
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What serves each map, with P = Ho * Wo output pixels.

    Yields:
        tuple[Tensor, Tensor, Tensor]: receptive fields (K, I / M, P*N),
        weight (K, O, I / M) and attention (K, O, 1, N), of one precision of
        32 bits at least.
    """
    stride, padding, dilation = geometry
    wide = torch.promote_types(weight.dtype, torch.float32)
    served = weight.unflatten(1, (maps.size(2), -1)).flatten(3)
    fields = F.unfold(x, weight.shape[2:], dilation, padding, stride)
    fields = fields.unflatten(1, served.shape[1:]).permute(1, 3, 2, 4, 0)
    own = served.permute(1, 3, 0, 2)
    # Samples last: rows of a few pixels would be short.
    attention = maps.flatten(3).permute(2, 3, 1, 0).unsqueeze(3)
    for operands in zip(fields.flatten(3), own, attention):
        yield tuple(each.to(wide).contiguous() for each in operands)


def _products(a: Tensor, b: Tensor) -> Tensor:
    with without_autocast(a):
        return torch.bmm(a, b)
