"""The operators as modules on torch alone, drop-ins for ``nn.Conv2d``."""

from mmrfa.layers.aw_conv import AWConv
from mmrfa.layers.base import AttentionConv2d
from mmrfa.layers.ca_conv import CAConv
from mmrfa.layers.cam_conv import CAMConv
from mmrfa.layers.cbam_conv import CBAMConv
from mmrfa.layers.norm import GlooSyncBN, set_moments
from mmrfa.layers.rfa_conv import RFAConv
from mmrfa.layers.rfca_conv import RFCAConv
from mmrfa.layers.rfcbam_conv import RFCBAMConv

# Every operator; class name = registered name = the paper's name.
OPERATORS = (
    RFAConv,
    RFCBAMConv,
    RFCAConv,
    CAMConv,
    CBAMConv,
    CAConv,
    AWConv,
)

__all__ = [
    'OPERATORS',
    'AttentionConv2d',
    'GlooSyncBN',
    'set_moments',
    *(operator.__name__ for operator in OPERATORS),
]
