"""RFCBAM convolution, as its equations read."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.features import receptive_field_features
from mmrfa.ops.common.gates import channel_gate, spatial_gate
from mmrfa.ops.common.norm import ConvNorm
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.window import Window, spread


class CBAMGates(NamedTuple):
    """The layers of both attentions over C channels.

    Attributes:
        squeeze (Tensor): W1, (hidden, C, 1, 1).
        expand (Tensor): W2, (C, hidden, 1, 1).
        spatial (Tensor): (1, 2, 3, 3).
    """

    squeeze: Tensor
    expand: Tensor
    spatial: Tensor


def rfcbam_conv2d(
    x: Tensor,
    feature: ConvNorm,
    gates: CBAMGates,
    conv: Conv,
    window: Window,
) -> Tensor:
    """Convolve receptive-field features under channel and spatial attention.

    ::

        Z   = spread(F), F as in ``rfa_conv2d``
        s   = sigmoid(W2 ReLU(W1 mean(x)))              one weight a channel
        m   = sigmoid(conv([max_c Z ; mean_c Z]))       one weight a position
        out = conv(Z * s * m, weight, bias), stride = kernel

    Source: RFAConv, arXiv:2304.03198, RFCBAMConv. The spatial weight is taken
    from Z before the channel weighting, as in the authors' code.

    Args:
        x (Tensor): (N, C, H, W).
        feature (ConvNorm): (C*K, 1, kh, kw), and BN over C*K channels.
        gates (CBAMGates): layers of the attention.
        conv (Conv): the last convolution, (O, C / groups, kh, kw).
        window (Window): of the operator.

    Returns:
        Tensor: (N, O, Ho, Wo).
    """
    features, channel, spatial = features_and_gates(x, feature, gates, window)
    return F.conv2d(
        features * channel * spatial,
        conv.weight,
        conv.bias,
        window.kernel_size,
        groups=conv.groups,
    )


def features_and_gates(
    x: Tensor, feature: ConvNorm, gates: CBAMGates, window: Window
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what :func:`rfcbam_conv2d` multiplies: Z, s and m.

    Args:
        x (Tensor): (N, C, H, W).
        feature (ConvNorm): of the features.
        gates (CBAMGates): layers of the attention.
        window (Window): of the operator.

    Returns:
        tuple[Tensor, Tensor, Tensor]: (N, C, Ho*kh, Wo*kw), and the gates
        (N, C, 1, 1) and (N, 1, Ho*kh, Wo*kw), values in (0, 1).
    """
    features = receptive_field_features(x, feature, window)
    features = spread(features, window.kernel_size)
    channel = channel_gate(x, gates.squeeze, gates.expand, max_pool=False)
    return features, channel, spatial_gate(features, gates.spatial)
