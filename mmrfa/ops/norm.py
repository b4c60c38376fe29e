"""Batch normalisation as the operators use it."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def normalize(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``norm``, also where a batch holds one value per channel.

    One value has no variance: ``nn.BatchNorm2d`` refuses it in training mode.
    A convolution does not, so there the running statistics are used, and not
    updated, as in eval mode.

    Args:
        norm (Callable): usually ``nn.BatchNorm2d``; SyncBN and ``nn.Identity``
            (a folded norm) work as well.
        x (Tensor): (N, C, H, W).

    Returns:
        Tensor: same shape and dtype as ``norm(x)``.
    """
    single = type(norm) is nn.BatchNorm2d and x.numel() == x.size(1)
    if single and norm.training and norm.running_mean is not None:
        return F.batch_norm(
            x,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            training=False,
            eps=norm.eps,
        )
    return norm(x)
