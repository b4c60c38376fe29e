"""AWConv: attention with the shape of the convolution weight."""

from mmrfa.ops.aw import reference
from mmrfa.ops.dispatch import operator

aw_conv2d = operator(reference.aw_conv2d)

__all__ = ['aw_conv2d']
