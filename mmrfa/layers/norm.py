"""Batch norms inside and between the operators: modules own what moves."""

from collections.abc import Callable

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrfa.errors import InputError
from mmrfa.ops import BatchNorm, normalize


class GlooSyncBN(nn.BatchNorm2d):
    """``nn.SyncBatchNorm`` for processes without a GPU.

    That refuses tensors on CPUs, and ``DistributedDataParallel`` refuses it
    there. Same arguments, parameters and buffers; uneven and empty batches
    count by their values. Outside of a process group, and in eval mode, it is
    ``nn.BatchNorm2d``.

    Args:
        *args, **kwargs: those of ``nn.BatchNorm2d``.
        process_group (ProcessGroup | None): whose batches count as one. None
            stands for all processes.
    """

    def __init__(self, *args, process_group=None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.process_group = process_group

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, H, W).

        Raises:
            InputError: this process is not in the group.
            RuntimeError: not all processes of the group came, within its
                timeout.
        """
        norm = state_of(self)
        if norm.group is None:
            return super().forward(x)
        return normalize(x, norm)


_NORMS = {
    'BN': nn.BatchNorm2d,
    'BN2d': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
    'GlooSyncBN': GlooSyncBN,
}


def build_norm(
    num_features: int, norm_cfg: dict | None, device=None, dtype=None
) -> nn.Module:
    """Build the batch norm inside an operator.

    Args:
        num_features (int): channels.
        norm_cfg (dict | None): ``type`` (BN, SyncBN or GlooSyncBN),
            ``requires_grad`` and the arguments of the class, as in MMCV. None
            stands for BN.
        device, dtype: as in ``nn.BatchNorm2d``.

    Returns:
        nn.Module: a batch norm.

    Raises:
        InputError: another ``type``, or arguments that it does not take. The
            operators are defined with batch norm, and faster forms rely on
            it.
    """
    if not isinstance(norm_cfg, dict | None):
        raise InputError(f'norm_cfg: expected a dict, got {norm_cfg!r}')
    cfg = dict(norm_cfg or {})
    cfg.pop('_scope_', None)  # MMEngine's mark on what a base config has
    kind = cfg.pop('type', 'BN')
    if kind not in _NORMS:
        raise InputError(
            f'norm_cfg: expected type {", ".join(_NORMS)}, got {kind!r}'
        )
    requires_grad = cfg.pop('requires_grad', True)
    try:
        norm = _NORMS[kind](num_features, **cfg, device=device, dtype=dtype)
    except TypeError as error:
        raise InputError(f'norm_cfg: does not fit {kind}: {error}') from error
    return norm.requires_grad_(requires_grad)


def state_of(norm: nn.Module) -> BatchNorm | Callable | None:
    """The tensors and the mode of a norm, as ``mmrfa.ops`` takes them.

    Args:
        norm (nn.Module): ``nn.BatchNorm2d``; ``nn.SyncBatchNorm``, whose
            processes may be on CPUs as well; :class:`GlooSyncBN`;
            ``nn.Identity`` (a folded norm); or another norm, which only the
            reference forms know.

    Raises:
        InputError: a synchronised norm whose group this process is not in.
    """
    if isinstance(norm, nn.Identity):
        return None
    synchronised = isinstance(norm, nn.SyncBatchNorm | GlooSyncBN)
    if not synchronised and type(norm).forward is not _BatchNorm.forward:
        return norm
    running = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if norm.training and not norm.track_running_stats:
        running = None, None, None  # they stay, as in nn.BatchNorm2d
    return BatchNorm(
        norm.weight,
        norm.bias,
        *running,
        norm.training or norm.running_mean is None,
        norm.momentum,
        norm.eps,
        _group_of(norm) if synchronised and norm.training else None,
    )


def _group_of(norm: nn.SyncBatchNorm | GlooSyncBN) -> object:
    """The processes it is synchronised over; None for one alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    group = norm.process_group or distributed.group.WORLD
    size = distributed.get_world_size(group)
    if size < 0:
        raise InputError(
            f'{type(norm).__name__}: expected a process_group with this '
            f'process (rank {distributed.get_rank()}), got one without it'
        )
    return group if size > 1 else None


def check_whole(norm: nn.Module) -> None:
    """Make sure that a norm can be set to compute something.

    Args:
        norm (nn.Module): of an operator.

    Raises:
        InputError: it was folded, has no weight or running statistics, or
            others compute them.
    """
    own = {**norm._parameters, **norm._buffers}
    names = 'weight', 'bias', 'running_mean', 'running_var'
    if any(own.get(name) is None for name in names):
        raise InputError(
            'norm: expected a batch norm with weight, bias and running '
            f'statistics of its own, got {norm}'
        )


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

    Raises:
        InputError: it was folded, or has no weight or running statistics.
    """
    check_whole(norm)
    for running, moment in (
        (norm.running_mean, mean),
        (norm.running_var, var),
    ):
        running.copy_(torch.as_tensor(moment, dtype=running.dtype))
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(norm.running_mean)
