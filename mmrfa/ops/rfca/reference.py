"""RFCA convolution, as its equations read."""

import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.features import receptive_field_features
from mmrfa.ops.common.gates import CoordinateGates, coordinate_gates
from mmrfa.ops.common.norm import ConvNorm
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.window import Window, spread


def rfca_conv2d(
    x: Tensor,
    feature: ConvNorm,
    gates: CoordinateGates,
    conv: Conv,
    window: Window,
) -> Tensor:
    """Convolve receptive-field features under coordinate attention.

    ``Z = spread(F)`` with F as in ``rfa_conv2d``; row and column gates a_h
    and a_w from Z; ``out = conv(Z * a_h * a_w, weight, bias)``,
    stride = kernel. Source: RFAConv, arXiv:2304.03198, RFCAConv.

    Args:
        x (Tensor): (N, C, H, W).
        feature (ConvNorm): (C*K, 1, kh, kw), and BN over C*K channels.
        gates (CoordinateGates): layers of the attention.
        conv (Conv): the last convolution, (O, C / groups, kh, kw).
        window (Window): of the operator.

    Returns:
        Tensor: (N, O, Ho, Wo).
    """
    features, rows, columns = features_and_gates(x, feature, gates, window)
    return F.conv2d(
        features * rows * columns,
        conv.weight,
        conv.bias,
        window.kernel_size,
        groups=conv.groups,
    )


def features_and_gates(
    x: Tensor, feature: ConvNorm, gates: CoordinateGates, window: Window
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what :func:`rfca_conv2d` multiplies: Z, a_h and a_w.

    Args:
        x (Tensor): (N, C, H, W).
        feature (ConvNorm): of the features.
        gates (CoordinateGates): layers of the attention.
        window (Window): of the operator.

    Returns:
        tuple[Tensor, Tensor, Tensor]: (N, C, Ho*kh, Wo*kw), and the gates
        (N, C, Ho*kh, 1) and (N, C, 1, Wo*kw), values in (0, 1).
    """
    features = receptive_field_features(x, feature, window)
    features = spread(features, window.kernel_size)
    return features, *coordinate_gates(features, gates)
