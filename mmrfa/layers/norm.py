"""Norm layers from the OpenMMLab form of config, with torch alone."""

from torch import nn

from mmrfa.errors import InputError

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
    kind = cfg.pop('type', 'BN')
    if kind not in _NORMS:
        raise InputError(
            f'norm_cfg: expected type {", ".join(_NORMS)}, got {kind!r}'
        )
    requires_grad = cfg.pop('requires_grad', True)
    norm = _NORMS[kind](num_features, **cfg, device=device, dtype=dtype)
    return norm.requires_grad_(requires_grad)
