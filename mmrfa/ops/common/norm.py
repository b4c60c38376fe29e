"""Batch normalisation as the operators use it: tensors and a mode.

Running statistics are buffers that move in place, as in ``F.batch_norm``; the
modules that own them stay in ``mmrfa.layers``.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class BatchNorm(NamedTuple):
    """A batch norm over C channels.

    Attributes:
        weight (Tensor | None): gamma, (C,).
        bias (Tensor | None): beta, (C,).
        running_mean (Tensor | None): (C,); None where none is kept.
        running_var (Tensor | None): (C,).
        num_batches_tracked (Tensor | None): ().
        training (bool): normalise by the statistics of the batch, and move
            the running ones.
        momentum (float | None): of the running statistics; None averages
            over all batches.
        eps (float): added to the variance.
        group (ProcessGroup | None): the processes whose batches count as
            one, as in ``nn.SyncBatchNorm``. None: this one alone.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    training: bool
    momentum: float | None
    eps: float
    group: Any = None


# None is the identity (a norm that was folded). Other callables are norms
# that only the reference forms know.
Norm = BatchNorm | Callable[[Tensor], Tensor] | None


class Statistics(NamedTuple):
    """Of a batch: mean (C,), and variance (C,), unbiased."""

    mean: Tensor
    var: Tensor


class ConvNorm(NamedTuple):
    """A convolution and the norm behind it.

    Attributes:
        weight (Tensor): of the convolution, (C, ...).
        bias (Tensor | None): (C,).
        norm (BatchNorm | Callable | None): over C channels.
    """

    weight: Tensor
    bias: Tensor | None
    norm: Norm

    def folded(self) -> 'ConvNorm':
        """One convolution for both, for a norm that uses running statistics.

        The parameters are not touched; the result is differentiable.
        """
        norm = self.norm
        if norm is None:
            return self
        wide = torch.promote_types(norm.running_var.dtype, torch.float32)
        scale = (norm.running_var.to(wide) + norm.eps).rsqrt()
        scale = norm.weight.to(wide) * scale
        shift = norm.bias.to(wide) - norm.running_mean.to(wide) * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        scale = scale.view(-1, *[1] * (self.weight.dim() - 1))
        dtype = self.weight.dtype
        weight = (self.weight * scale).to(dtype)
        return ConvNorm(weight, shift.to(dtype), None)


def read_by(layers: object) -> Iterator[Tensor]:
    """Tensors that layers read, and that a forward pass leaves as they are.

    Args:
        layers (object): tensors, norms and tuples of them.
    """
    if isinstance(layers, Tensor):
        yield layers
    elif isinstance(layers, BatchNorm):  # running statistics may move
        yield from read_by(tuple(layers[: 2 if layers.training else 4]))
    elif isinstance(layers, tuple):
        for layer in layers:
            yield from read_by(layer)


def uses_batch(norm: Norm, count: int) -> bool:
    """Whether a norm takes its statistics from a batch.

    One value has no variance: ``nn.BatchNorm2d`` refuses it in training mode
    (and an empty batch turns its statistics into NaN). A convolution takes
    both, so there the running statistics are used, and not moved, as in eval
    mode. Over several processes, that they meet must not depend on the batch
    of one of them.

    Args:
        norm (BatchNorm | None): of the forms that know no other.
        count (int): values per channel, in this process.
    """
    if norm is None or not norm.training:
        return False
    return count > 1 or norm.group is not None or norm.running_mean is None


def normalize(x: Tensor, norm: Norm) -> Tensor:
    """Apply a norm, and move its running statistics.

    Args:
        x (Tensor): (N, C, H, W).
        norm (BatchNorm | Callable | None): over the channels.

    Returns:
        Tensor: same shape and dtype as x.
    """
    if norm is not None and not isinstance(norm, BatchNorm):
        return norm(x)
    y, statistics = normalized(x, norm)
    if statistics is not None:
        move(norm, statistics)
    return y


def normalized(
    x: Tensor, norm: BatchNorm | None
) -> tuple[Tensor, Statistics | None]:
    """Apply a norm without a trace, so that it may be done once more.

    Args:
        x (Tensor): (N, C, H, W).
        norm (BatchNorm | None): over the channels.

    Returns:
        tuple[Tensor, Statistics | None]: the result, and for :func:`move`
        what the running statistics have to move to, if they have to.
    """
    if norm is None:
        return x, None
    affine = norm.weight, norm.bias
    if not uses_batch(norm, x.numel() // max(1, x.size(1))):
        running = norm.running_mean, norm.running_var
        y = F.batch_norm(x, *running, *affine, False, 0, norm.eps)
        return y, None
    if norm.group is not None:
        return _normalized_over_group(x, norm)
    # With a momentum of 1 these buffers receive the statistics of the batch.
    statistics = None, None
    if norm.running_mean is not None:
        mean = torch.zeros_like(norm.running_mean)
        statistics = Statistics(mean, torch.zeros_like(mean))
    y = F.batch_norm(x, *statistics, *affine, True, 1.0, norm.eps)
    return y, None if norm.running_mean is None else statistics


def _normalized_over_group(
    x: Tensor, norm: BatchNorm
) -> tuple[Tensor, Statistics | None]:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    count = x.numel() // max(1, x.size(1))
    if count:
        var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
    else:  # in a graph all the same: backward has a collective too
        var = mean = wide.sum((0, 2, 3))
    mean, var, unbiased = over_group(mean.double(), var.double(), count, norm)
    scale = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = norm.weight * scale
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    scale, shift = (v.to(wide.dtype)[:, None, None] for v in (scale, shift))
    y = (wide * scale + shift).to(x.dtype)
    if norm.running_mean is None:
        return y, None
    return y, Statistics(mean.detach(), unbiased.detach())


def over_group(
    mean: Tensor, var: Tensor, count: int, norm: BatchNorm
) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of what all processes see, from those of each.

    One collective, and one in backward; processes may see different numbers
    of values, or none.

    Args:
        mean (Tensor): of this process, (C,) float64.
        var (Tensor): biased, likewise.
        count (int): values per channel that this process sees.
        norm (BatchNorm): names the group; None there leaves it at this
            process.

    Returns:
        tuple[Tensor, Tensor, Tensor]: mean, biased and unbiased variance,
        (C,) float64.
    """
    if norm.group is None:
        return mean, var, var * (count / max(1, count - 1))
    sums = [mean * count, (var + mean**2) * count, mean.new_tensor([count])]
    total = _SumOverGroup.apply(torch.cat(sums), norm.group)
    mean, square = (total[:-1] / total[-1].clamp(min=1)).chunk(2)
    var = (square - mean**2).clamp(min=0)
    return mean, var, var * (total[-1] / (total[-1] - 1).clamp(min=1))


class _SumOverGroup(torch.autograd.Function):
    """Sum of a tensor over processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        try:
            torch.distributed.all_reduce(total, group=group)
        except RuntimeError as error:
            raise RuntimeError(
                'synchronised batch norm: expected all processes of its '
                'group to run the same norms in the same order, '
                f'but they did not meet: {error}'
            ) from error
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _SumOverGroup.apply(grad, ctx.group), None


@torch.no_grad()
def move(norm: BatchNorm, statistics: Statistics) -> None:
    """Move the running statistics, as the forward of a batch norm does.

    Args:
        norm (BatchNorm): with running statistics.
        statistics (Statistics): of the batch.
    """
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    elif momentum is None:  # as in nn.BatchNorm2d
        momentum = 0.0
    if momentum is None:  # average over all batches
        momentum = 1 / norm.num_batches_tracked.to(statistics.mean.dtype)
    for running, batch in zip(
        (norm.running_mean, norm.running_var), statistics
    ):
        running.copy_(running * (1 - momentum) + batch * momentum)


def unsupported_norm(norm: Norm) -> str | None:
    """Why a form that needs plain batch norm cannot run, or None."""
    if norm is None:
        return None
    if not isinstance(norm, BatchNorm):
        return f'needs a batch norm, got {type(norm).__name__}'
    if any(part is None for part in norm[:3]):
        return 'needs a batch norm with weight, bias and running statistics'
    return None
