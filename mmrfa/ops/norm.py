"""Batch normalisation as the operators use it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normalize(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply ``norm``, also where a batch holds one value per channel or none.

    One value has no variance: ``nn.BatchNorm2d`` refuses it in training mode
    (and an empty batch turns its statistics into NaN). A convolution takes
    both, so there the running statistics are used, and not updated, as in
    eval mode.

    Args:
        norm (Callable): usually ``nn.BatchNorm2d``; SyncBN and ``nn.Identity``
            (a folded norm) work as well.
        x (Tensor): (N, C, H, W).

    Returns:
        Tensor: same shape and dtype as ``norm(x)``.
    """
    few = type(norm) is nn.BatchNorm2d and x.numel() <= x.size(1)
    if few and norm.training and norm.running_mean is not None:
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


def fold_norm(
    norm: nn.Module, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Fold an eval-mode batch norm into the convolution before it.

    The parameters are not touched; the result is differentiable.

    Args:
        norm (nn.Module): ``nn.BatchNorm2d`` in eval mode or ``nn.Identity``.
        weight (Tensor): (C, ...), of the convolution.
        bias (Tensor | None): (C,).

    Returns:
        tuple[Tensor, Tensor | None]: weight and bias that give
        ``norm(conv(x))``.
    """
    if isinstance(norm, nn.Identity):
        return weight, bias
    wide = torch.promote_types(norm.running_var.dtype, torch.float32)
    scale = (
        norm.weight.to(wide) * (norm.running_var.to(wide) + norm.eps) ** -0.5
    )
    shift = norm.bias.to(wide) - norm.running_mean.to(wide) * scale
    if bias is not None:
        shift = shift + bias * scale
    scale = scale.view(-1, *[1] * (weight.dim() - 1))
    return (weight * scale).to(weight.dtype), shift.to(weight.dtype)


class PureNorm:
    """A norm that may run twice and moves its running statistics once.

    A form that computes the features once more for backward normalises twice.

    Args:
        norm (nn.Module): ``nn.BatchNorm2d`` or ``nn.Identity``.
    """

    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm
        self.training = isinstance(norm, nn.BatchNorm2d) and norm.training
        self.statistics = None

    def __call__(self, x: Tensor) -> Tensor:
        """Compute ``normalize(norm, x)`` for x (N, C, H, W)."""
        norm = self.norm
        if not self.training or x.numel() <= x.size(1):
            return normalize(norm, x)
        # With a momentum of 1 these buffers receive the statistics of the
        # batch, the variance unbiased, as the running variance wants it.
        mean = torch.zeros_like(norm.running_mean)
        var = torch.zeros_like(norm.running_var)
        self.statistics = mean, var
        return F.batch_norm(
            x, mean, var, norm.weight, norm.bias, True, 1.0, norm.eps
        )

    def update(self) -> None:
        """Move the running statistics as the forward of ``norm`` does."""
        if self.statistics is not None:
            update_running_statistics(self.norm, *self.statistics)


@torch.no_grad()
def update_running_statistics(
    norm: nn.BatchNorm2d, mean: Tensor, var: Tensor
) -> None:
    """Move the running statistics of ``norm`` as its forward does.

    Args:
        norm (nn.BatchNorm2d): with running statistics.
        mean (Tensor): (C,), of the batch.
        var (Tensor): (C,), of the batch, unbiased.
    """
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:  # cumulative average
        momentum = 1 / norm.num_batches_tracked.to(mean.dtype)
    for running, batch in ((norm.running_mean, mean), (norm.running_var, var)):
        moved = running * (1 - momentum) + batch * momentum
        running.copy_(moved)


def unsupported_norm(norm: object) -> str | None:
    """Why a form that needs plain batch norm cannot run, or None."""
    if type(norm) is nn.Identity:
        return None
    if type(norm) is not nn.BatchNorm2d:
        return f'needs nn.BatchNorm2d, got {type(norm).__name__}'
    if norm.weight is None or norm.running_mean is None:
        return 'needs a batch norm with weight, bias and running statistics'
    return None
