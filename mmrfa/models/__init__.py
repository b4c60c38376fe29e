"""Everything by name in OpenMMLab's configs: importing registers it.

Operators, plugins, backbones, data sets and transforms go to MMEngine's root
registries, where every scope (mmseg, mmdet, mmpretrain, mmyolo) finds them
without a prefix. From then on MMEngine also reads checkpoints without running
code from them (``mmrfa.checkpoints.reading``).
"""

from mmrfa.openmmlab import allow_config_scopes, check_distribution

check_distribution()

from mmengine.registry import MODELS  # noqa: E402

import mmrfa.datasets  # noqa: E402, F401
from mmrfa.checkpoints.mmengine_loaders import (  # noqa: E402
    load_safely_everywhere,
)
from mmrfa.layers import OPERATORS, GlooSyncBN  # noqa: E402

allow_config_scopes()
load_safely_everywhere()

for _module in (*OPERATORS, GlooSyncBN):
    MODELS.register_module(module=_module)

from mmrfa.models.backbones import RFAResNet, RFAResNetV1c  # noqa: E402
from mmrfa.models.converted import build_converted  # noqa: E402
from mmrfa.models.plugins import AttentionBlock  # noqa: E402

__all__ = ['AttentionBlock', 'RFAResNet', 'RFAResNetV1c', 'build_converted']
