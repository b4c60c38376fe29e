"""Operators from configs: any registered subclass of ``AttentionConv2d``."""

import inspect

from mmcv.cnn import build_conv_layer
from mmengine.registry import MODELS
from torch import nn

from mmrfa.errors import InputError
from mmrfa.layers import AttentionConv2d


def check_operator(cfg: dict) -> type[AttentionConv2d]:
    """Refuse what is no operator.

    Args:
        cfg (dict): value of ``attention_conv``.

    Returns:
        type[AttentionConv2d]: its class.

    Raises:
        InputError: not a dict, or its ``type`` is no subclass of
            ``AttentionConv2d``, registered or given as a class.
    """
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    with MODELS.switch_scope_and_registry(None) as registry:
        found = registry.get(kind) if isinstance(kind, str) else kind
    if not _is_operator(found):
        known = [k for k, v in MODELS.module_dict.items() if _is_operator(v)]
        raise InputError(
            'attention_conv: expected a dict with type one of '
            f'{", ".join(known)}, got {cfg!r}'
        )
    return found


def build_attention_conv(cfg: dict, replaced: nn.Conv2d) -> AttentionConv2d:
    """Build the operator that takes the place of a convolution.

    Args:
        cfg (dict): ``type`` and arguments of the operator.
        replaced (nn.Conv2d): gives channels, kernel, stride, padding,
            dilation and groups.

    Returns:
        AttentionConv2d: with a bias, as published, also where a norm layer
        follows, unless ``cfg`` says ``bias=False``.
    """
    return build_conv_layer(
        {'bias': True, **cfg},
        replaced.in_channels,
        replaced.out_channels,
        replaced.kernel_size,
        stride=replaced.stride,
        padding=replaced.padding,
        dilation=replaced.dilation,
        groups=replaced.groups,
    )


def _is_operator(kind: object) -> bool:
    return inspect.isclass(kind) and issubclass(kind, AttentionConv2d)
