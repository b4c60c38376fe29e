"""Receptive-field attention convolution, as its equations read."""

import torch.nn.functional as F
from torch import Tensor

from mmrfa.ops.common.features import receptive_field_features
from mmrfa.ops.common.norm import ConvNorm, normalize
from mmrfa.ops.common.taps import Conv, softmax_over_taps
from mmrfa.ops.common.window import Window, receptive_field, spread


def rfa_conv2d(
    x: Tensor,
    gain: Tensor,
    feature: ConvNorm,
    conv: Conv,
    window: Window,
) -> Tensor:
    """Convolve with a weight of its own for every tap of every window.

    With the receptive field U of :func:`mmrfa.ops.receptive_field`::

        A[c, t] = g[c, t] * mean_t' U[c, t']        alpha = softmax_t A
        F[c, t] = ReLU(BN(sum_t' w[c, t, t'] * U[c, t']))
        out     = conv(spread(alpha * F), weight, bias), stride = kernel

    Source: Zhang et al., RFAConv, arXiv:2304.03198 (v1 of 6 April 2023; v7
    of 28 February 2026 has another title), the grouped-convolution form.
    Named by its formula, since numbers of equations differ between versions:
    ``F = Softmax(g(AvgPool(X))) * ReLU(Norm(g(X)))``, both g being grouped
    convolutions.
    Deviations: the authors' code refuses dilation, here it dilates U
    (features and average pooling alike); ``conv.groups`` groups the last
    convolution only.

    Args:
        x (Tensor): (N, C, H, W).
        gain (Tensor): g, (C*K, 1, 1, 1); row ``c * K + t``.
        feature (ConvNorm): w, (C*K, 1, kh, kw), and BN over C*K channels; its
            mode decides which statistics are used and whether they move.
        conv (Conv): the last convolution, (O, C / groups, kh, kw).
        window (Window): of the operator.

    Returns:
        Tensor: (N, O, Ho, Wo), the size ``F.conv2d`` gives.

    Note: half-precision scores are normalised in float32.
    """
    alpha = tap_weights(x, gain, window)
    features = receptive_field_features(x, feature, window)
    weighted = spread(alpha.to(features.dtype) * features, window.kernel_size)
    return F.conv2d(
        weighted,
        conv.weight,
        conv.bias,
        window.kernel_size,
        groups=conv.groups,
    )


def tap_weights(x: Tensor, gain: Tensor, window: Window) -> Tensor:
    """Weigh the taps of every window: alpha of :func:`rfa_conv2d`.

    Args:
        x (Tensor): (N, C, H, W).
        gain (Tensor): g, (C*K, 1, 1, 1).
        window (Window): of the operator.

    Returns:
        Tensor: (N, C, K, Ho, Wo), of sum 1 over K.
    """
    scores = receptive_field(x, window).mean(2, keepdim=True)
    scores = scores * gain.view(1, x.size(1), window.taps, 1, 1)
    return softmax_over_taps(scores)


def rfa_unfold_conv2d(
    x: Tensor, attn: ConvNorm, conv: Conv, window: Window
) -> Tensor:
    """Receptive-field attention on the raw patches, without learned features.

    ``alpha = softmax_t BN(sum_t' v[c, t, t'] * U[c, t'] + b[c, t])`` and
    ``out = conv(spread(alpha * U), weight, bias)``, stride = kernel.
    Source: RFAConv, arXiv:2304.03198, the variant on unfolded features.

    Args:
        x (Tensor): (N, C, H, W).
        attn (ConvNorm): v, (C*K, K, 1, 1), row ``c * K + t``; b, (C*K,); and
            BN over C*K channels.
        conv (Conv): the last convolution.
        window (Window): of the operator.

    Returns:
        Tensor: (N, O, Ho, Wo).

    Note: half-precision scores are normalised in float32.
    """
    field = receptive_field(x, window)
    weighted = unfold_tap_weights(field, attn).to(field.dtype) * field
    return F.conv2d(
        spread(weighted, window.kernel_size),
        conv.weight,
        conv.bias,
        window.kernel_size,
        groups=conv.groups,
    )


def unfold_tap_weights(field: Tensor, attn: ConvNorm) -> Tensor:
    """Weigh the taps of every window: alpha of :func:`rfa_unfold_conv2d`.

    Args:
        field (Tensor): U, (N, C, K, Ho, Wo).
        attn (ConvNorm): v, b and BN.

    Returns:
        Tensor: (N, C, K, Ho, Wo), of sum 1 over K.
    """
    scores = F.conv2d(
        field.flatten(1, 2), attn.weight, attn.bias, groups=field.size(1)
    )
    return softmax_over_taps(normalize(scores, attn.norm).view_as(field))
