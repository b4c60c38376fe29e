"""The features that the primitives make, in stock PyTorch."""

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window, receptive_field


def wide_field(x: Tensor, window: Window) -> Tensor:
    """The receptive field (N, C, K, Ho, Wo), half precision as float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return receptive_field(x.to(wide), window)


def linear(field: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """``sum_t' weight[c, t, t'] * field[c, t'] + shift[c, t]``."""
    y = torch.einsum('ctk,nckab->nctab', weight.to(field.dtype), field)
    return y + shift.to(field.dtype)[:, :, None, None]


def features(
    x: Tensor, weight: Tensor, shift: Tensor, window: Window
) -> Tensor:
    """``ReLU`` of :func:`linear`, (N, C, K, Ho, Wo), at least float32."""
    return linear(wide_field(x, window), weight, shift).relu()
