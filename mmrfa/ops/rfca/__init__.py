"""RFCAConv: coordinate attention on receptive-field features."""

from mmrfa.ops.dispatch import operator
from mmrfa.ops.rfca import reference

rfca_conv2d = operator(reference.rfca_conv2d)

__all__ = ['rfca_conv2d']
