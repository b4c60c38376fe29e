"""RFCBAM convolution, as its equations read."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.gates import channel_gate, spatial_gate
from mmrfa.ops.receptive_field import Pair, receptive_field_features, spread


def rfcbam_conv2d(
    x: Tensor,
    feature_weight: Tensor,
    norm: Callable[[Tensor], Tensor],
    squeeze: Tensor,
    expand: Tensor,
    spatial_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    feature_bias: Tensor | None = None,
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
        feature_weight (Tensor): (C*K, 1, kh, kw).
        norm (Callable): BN over C*K channels.
        squeeze (Tensor): W1, (hidden, C, 1, 1).
        expand (Tensor): W2, (C, hidden, 1, 1).
        spatial_weight (Tensor): (1, 2, 3, 3).
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
    channel = channel_gate(x, squeeze, expand, max_pool=False)
    spatial = spatial_gate(features, spatial_weight)
    return F.conv2d(
        features * channel * spatial, weight, bias, kernel_size, groups=groups
    )
