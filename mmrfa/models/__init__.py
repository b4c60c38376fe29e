"""Everything by name in OpenMMLab's configs: importing registers it.

Operators, plugins, backbones, necks, data sets and transforms go to
MMEngine's root registries, where every scope (mmseg, mmdet, mmpretrain) finds
them without a prefix. The parts of YOLOX need MMDetection; they are looked
for when a config names one. From then on MMEngine also reads checkpoints
without running code from them (``mmrfa.checkpoints.reading``).
"""

from mmrfa.openmmlab import (
    allow_config_scopes,
    check_distribution,
    import_package,
)

check_distribution()

from mmengine.registry import MODELS  # noqa: E402

import mmrfa.datasets  # noqa: E402, F401
from mmrfa.checkpoints.mmengine_loaders import (  # noqa: E402
    load_safely_everywhere,
)
from mmrfa.layers import OPERATORS  # noqa: E402

allow_config_scopes()
load_safely_everywhere()

for _operator in OPERATORS:
    MODELS.register_module(module=_operator)

from mmrfa.models.backbones import RFAResNet, RFAResNetV1c  # noqa: E402
from mmrfa.models.plugins import AttentionBlock  # noqa: E402


def _part_of_yolox(name: str):
    """Stand in for a class until it is built: MMDetection is slow to load."""

    def build(**kwargs):
        import_package('mmrfa.models.yolox')  # registers in this place
        return MODELS.get(name)(**kwargs)

    return build


for _name in ('RFACSPDarknet', 'RFAYOLOXPAFPN'):
    MODELS.register_module(_name, module=_part_of_yolox(_name))

__all__ = ['AttentionBlock', 'RFAResNet', 'RFAResNetV1c']
