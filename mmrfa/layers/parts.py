"""The convolutions that attention is made of."""

from torch import nn

from mmrfa.errors import InputError
from mmrfa.layers.norm import state_of
from mmrfa.ops import ConvNorm

# Parameters that hooks of torch.nn.utils make a weight of.
REWRITTEN = 'weight_orig', 'weight_g'


class _AnyConv2d(nn.Conv2d):
    """Between ``nn.Conv2d`` and what must not be taken for it."""


class AttentionLayer(_AnyConv2d):
    """A convolution of the attention.

    OpenMMLab initialises modules by the name of their class or of its base:
    what a network wants for its convolutions is for the operators, whose own
    layers start as published.

    What rewrites a weight in front of each ``forward``, which nobody calls
    here, would do so once: parametrizations work, and pruning or the former
    ``weight_norm`` are refused.
    """

    def register_parameter(self, name: str, param: nn.Parameter) -> None:
        """As of ``nn.Module``.

        Raises:
            InputError: what a weight is rewritten from.
        """
        if name in REWRITTEN:
            if name == 'weight_orig':  # spectral_norm took it away
                super().register_parameter('weight', param)
            raise InputError(
                f'{type(self).__name__}: expected no weight that a hook '
                f'rewrites (pruning, weight_norm, spectral_norm), got {name}; '
                'leave out layers of the attention '
                '(mmrfa.layers.parts.AttentionLayer), or use '
                'torch.nn.utils.parametrize'
            )
        super().register_parameter(name, param)


def conv_norm(conv: nn.Conv2d, norm: nn.Module) -> ConvNorm:
    """A convolution of the attention and its norm, as ``mmrfa.ops`` takes it.

    Args:
        conv (nn.Conv2d): of the attention.
        norm (nn.Module): behind it.
    """
    return ConvNorm(conv.weight, conv.bias, state_of(norm))
