"""The convolutions that attention is made of."""

from torch import nn

from mmrfa.layers.norm import state_of
from mmrfa.ops import ConvNorm


class _AnyConv2d(nn.Conv2d):
    """Between ``nn.Conv2d`` and what must not be taken for it."""


class AttentionLayer(_AnyConv2d):
    """A convolution of the attention.

    OpenMMLab initialises modules by the name of their class or of its base:
    what a network wants for its convolutions is for the operators, whose own
    layers start as published.
    """


def conv_norm(conv: nn.Conv2d, norm: nn.Module) -> ConvNorm:
    """A convolution of the attention and its norm, as ``mmrfa.ops`` takes it.

    Args:
        conv (nn.Conv2d): of the attention.
        norm (nn.Module): behind it.
    """
    return ConvNorm(conv.weight, conv.bias, state_of(norm))
