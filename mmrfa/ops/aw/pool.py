"""Adaptive average pooling that can be exported."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.tracing import is_exporting


def pool_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Compute ``F.adaptive_avg_pool2d``.

    Exporters unroll that for the size of the image they trace, and the
    program is wrong, silently, for any other. There it is a product with two
    matrices made from the size.

    Args:
        x (Tensor): (N, C, H, W).
        size (Sequence[int]): height and width of the result.

    Returns:
        Tensor: (N, C, *size).
    """
    if not is_exporting():
        return F.adaptive_avg_pool2d(x, tuple(size))
    rows = _means(x.size(2), size[0], x)
    columns = _means(x.size(3), size[1], x)
    return rows @ x @ columns.transpose(0, 1)


def _means(length: int, parts: int, like: Tensor) -> Tensor:
    """(parts, length): row i averages from i * length // parts on."""
    place = torch.arange(length, device=like.device)
    part = torch.arange(parts, device=like.device).unsqueeze(1)
    start = part * length // parts
    # Rounded up; an exporter rounds quotients of negative numbers to zero.
    end = ((part + 1) * length + parts - 1) // parts
    inside = (place >= start) & (place < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)
