"""Batch norm inside the operators: modules that own what moves."""

from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrfa.errors import InputError
from mmrfa.ops import BatchNorm

_NORMS = {
    'BN': nn.BatchNorm2d,
    'BN2d': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
}


def build_norm(
    num_features: int, norm_cfg: dict | None, device=None, dtype=None
) -> nn.Module:
    """Build the batch norm inside an operator.

    Args:
        num_features (int): channels.
        norm_cfg (dict | None): ``type`` (BN or SyncBN), ``requires_grad`` and
            the arguments of the class, as in MMCV. None stands for BN.
        device, dtype: as in ``nn.BatchNorm2d``.

    Returns:
        nn.Module: ``nn.BatchNorm2d`` or ``nn.SyncBatchNorm``.

    Raises:
        InputError: another ``type``. The operators are defined with batch
            norm, and faster forms rely on it.
    """
    cfg = dict(norm_cfg or {})
    cfg.pop('_scope_', None)  # MMEngine's mark on what a base config has
    kind = cfg.pop('type', 'BN')
    if kind not in _NORMS:
        raise InputError(
            f'norm_cfg: expected type {", ".join(_NORMS)}, got {kind!r}'
        )
    requires_grad = cfg.pop('requires_grad', True)
    norm = _NORMS[kind](num_features, **cfg, device=device, dtype=dtype)
    return norm.requires_grad_(requires_grad)


def state_of(norm: nn.Module) -> BatchNorm | Callable | None:
    """The tensors and the mode of a norm, as ``mmrfa.ops`` takes them.

    Args:
        norm (nn.Module): ``nn.BatchNorm2d``; ``nn.SyncBatchNorm``, whose
            processes may be on CPUs as well; ``nn.Identity`` (a folded norm);
            or another norm, which only the reference forms know.
    """
    if isinstance(norm, nn.Identity):
        return None
    synchronised = isinstance(norm, nn.SyncBatchNorm)
    if not synchronised and type(norm).forward is not _BatchNorm.forward:
        return norm
    training = norm.training or norm.running_mean is None
    return BatchNorm(
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked,
        training,
        norm.momentum,
        norm.eps,
        _group_of(norm) if synchronised and norm.training else None,
    )


def _group_of(norm: nn.SyncBatchNorm) -> object:
    """The processes it is synchronised over; None for one alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    group = norm.process_group or distributed.group.WORLD
    return group if distributed.get_world_size(group) > 1 else None


@torch.no_grad()
def set_moments(
    norm: nn.Module, mean: Tensor | float, var: Tensor | float
) -> None:
    """Make a batch norm the identity, for inputs with the given moments.

    With gamma = sqrt(var + eps) and beta = mean it is the identity in eval
    mode, and close to it on training batches that have these moments.

    Args:
        norm (nn.Module): BN or SyncBN, changed in place.
        mean (Tensor | float): per channel, or of all.
        var (Tensor | float): likewise.
    """
    norm.running_mean.zero_().add_(mean)
    norm.running_var.zero_().add_(var)
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(norm.running_mean)
