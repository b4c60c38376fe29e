"""The family as OpenMMLab components; importing registers everything.

Layers, plugins and backbones go to MMEngine's root registry, where every
scope (mmseg, mmdet, mmpretrain) finds them without a prefix.
"""

from mmrfa.models.family import check_family

check_family()

from mmengine.registry import MODELS  # noqa: E402

from mmrfa.layers import OPERATORS  # noqa: E402
from mmrfa.utils.config_scope import allow_config_scopes  # noqa: E402

allow_config_scopes()

for _operator in OPERATORS:
    MODELS.register_module(module=_operator)

from mmrfa.models import plugins  # noqa: E402
from mmrfa.models.backbones import RFAResNet, RFAResNetV1c  # noqa: E402

__all__ = ['RFAResNet', 'RFAResNetV1c', 'plugins']
