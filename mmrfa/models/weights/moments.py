"""Mean and variance of what the operators see, without data.

:func:`mmrfa.conversion.calibrate` measures them.
"""

import torch
from torch import Tensor, nn

from mmrfa.layers import set_moments

Moments = tuple[Tensor, Tensor]


def estimate(net: nn.Module) -> None:
    """Set the feature norms from the norm layers in front of them.

    A batch norm gives beta and gamma^2 as mean and variance; a shortcut adds
    those of its branch, and what comes out of a ReLU follows if it was
    normally distributed. Max pooling behind the stem is not accounted for.

    Args:
        net (nn.Module): an ``RFAResNet``, changed in place. Its features in
            eval mode stay the same, as :func:`set_moments` says.
    """
    stem = net.stem[7] if net.deep_stem else net.norm1
    x = _rectified(_behind(stem))
    for name in net.res_layers:
        for block in getattr(net, name):
            shortcut = x
            if block.downsample is not None:
                shortcut = _behind(block.downsample[-1])
            last, inner = block.norm2, x
            if hasattr(block, 'norm3'):
                last, inner = block.norm3, _rectified(_behind(block.norm1))
                operator = block.conv2
            else:
                operator = block.conv1
            norm = getattr(operator, 'feature_norm', None)
            if norm is not None:
                set_moments(
                    norm, *(v.repeat_interleave(operator.taps) for v in inner)
                )
            mean, var = _behind(last)
            x = _rectified((mean + shortcut[0], var + shortcut[1]))


def _behind(norm: nn.Module) -> Moments:
    return norm.bias.detach(), norm.weight.detach() ** 2


def _rectified(moments: Moments) -> Moments:
    """Moments of ReLU(z), z being normal with the moments given."""
    mean, std = moments[0], moments[1].clamp(min=1e-12).sqrt()
    normal = torch.distributions.Normal(0.0, 1.0)
    below = normal.cdf(mean / std)
    density = normal.log_prob(mean / std).exp()
    first = mean * below + std * density
    second = (mean**2 + std**2) * below + mean * std * density
    return first, (second - first**2).clamp(min=0)
