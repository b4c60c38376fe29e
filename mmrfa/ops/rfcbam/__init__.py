"""RFCBAMConv: CBAM attention on receptive-field features."""

from mmrfa.ops.dispatch import operator
from mmrfa.ops.rfcbam import reference

rfcbam_conv2d = operator(reference.rfcbam_conv2d)

__all__ = ['rfcbam_conv2d']
