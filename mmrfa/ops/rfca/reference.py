"""RFCA convolution, as its equations read."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.gates import coordinate_gates
from mmrfa.ops.receptive_field import Pair, receptive_field_features, spread


def rfca_conv2d(
    x: Tensor,
    feature_weight: Tensor,
    norm: Callable[[Tensor], Tensor],
    gate_params: tuple,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    feature_bias: Tensor | None = None,
) -> Tensor:
    """Convolve receptive-field features under coordinate attention.

    ``Z = spread(F)`` with F as in ``rfa_conv2d``; row and column gates a_h
    and a_w from Z; ``out = conv(Z * a_h * a_w, weight, bias)``,
    stride = kernel. Source: RFAConv, arXiv:2304.03198, RFCAConv.

    Args:
        x (Tensor): (N, C, H, W).
        feature_weight (Tensor): (C*K, 1, kh, kw).
        norm (Callable): BN over C*K channels.
        gate_params (tuple): the arguments of
            ``mmrfa.ops.gates.coordinate_gates`` behind its input, in order.
        weight, bias, stride, padding, dilation, groups, feature_bias: as in
            ``rfa_conv2d``.

    Returns:
        Tensor: (N, O, Ho, Wo).
    """
    kernel_size = weight.shape[2:]
    features = spread(
        receptive_field_features(
            x, feature_weight, feature_bias, norm, stride, padding, dilation
        ),
        kernel_size,
    )
    rows, columns = coordinate_gates(features, *gate_params)
    return F.conv2d(
        features * rows * columns, weight, bias, kernel_size, groups=groups
    )
