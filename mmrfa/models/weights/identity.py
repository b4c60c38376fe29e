"""Operators that compute what a plain convolution computes.

What the weights are, for a convolution with weight W and bias b and an
operator with K taps. The features are unchanged in eval mode:

- RFAConv, RFCBAMConv and RFCAConv learn features F = ReLU(BN(w * U)) of the
  receptive field U. With w the identity over taps and BN the identity,
  F = U wherever the input is not negative. That holds behind a ReLU, so for
  conv1 of a BasicBlock and conv2 of a Bottleneck, also with any stem that
  ends in ReLU and pooling.
- RFAConv: g = 0 makes the softmax 1 / K, hence the last weight is K * W.
  The unfold form has raw patches, so the sign does not matter; its BN gets
  gamma = 0 and beta = 0, which makes the scores 0 in training mode as well.
- Every sigmoid gate whose last layer is zero is 1/2: RFCBAMConv, RFCAConv,
  CBAMConv and CAConv have two (4 * W), CAMConv and AWConv one (2 * W); AWConv
  has those of its activation attention on top. Here, too, any sign is right.

Zero is the last layer only; what comes before stays random. So everything
receives a gradient, in the first step or, in front of a zero layer, the
second.
"""

import torch
from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.layers import (
    AttentionConv2d,
    AWConv,
    CAConv,
    CAMConv,
    CBAMConv,
    RFAConv,
    RFCAConv,
    RFCBAMConv,
)
from mmrfa.layers.gates import ChannelGate, CoordinateGate, SpatialGate


def feature_norm(operator: AttentionConv2d) -> nn.Module | None:
    """Return the batch norm of the receptive-field features, if any."""
    return operator.norm if hasattr(operator, 'feature') else None


@torch.no_grad()
def start_from_conv(
    operator: AttentionConv2d, weight: Tensor, bias: Tensor | None = None
) -> float:
    """Make an operator compute what a plain convolution computes.

    Args:
        operator (AttentionConv2d): changed in place; it keeps its initial
            values where they have no effect.
        weight (Tensor): (O, C / groups, kh, kw), of the convolution.
        bias (Tensor | None): (O,).

    Returns:
        float: what the last weight was multiplied by.

    Raises:
        InputError: the weight has another shape, or the operator has no
            bias to take ``bias`` up, or its kind is not known.
    """
    name = type(operator).__name__
    if weight.shape != operator.weight.shape:
        raise InputError(
            f'{name}: expected a weight of shape '
            f'{tuple(operator.weight.shape)}, got {tuple(weight.shape)}'
        )
    if bias is not None and operator.bias is None:
        raise InputError(f'{name}: expected no bias, as bias=False, got one')
    if isinstance(operator, RFAConv):
        factor = operator.taps
        if operator.mode == 'unfold':
            nn.init.zeros_(operator.norm.weight)
            nn.init.zeros_(operator.norm.bias)
        else:
            nn.init.zeros_(operator.attn.weight)
    elif isinstance(operator, RFCBAMConv):
        factor = 4
        nn.init.zeros_(operator.expand.weight)
        nn.init.zeros_(operator.spatial.weight)
    elif isinstance(operator, AWConv):
        factor = 2 * _open_gates(operator.gate)
        nn.init.zeros_(operator.fan_out.weight)
        nn.init.zeros_(operator.fan_out.bias)
    elif isinstance(operator, CAMConv | CBAMConv | CAConv | RFCAConv):
        factor = _open_gates(operator.gate)
    else:
        raise InputError(f'{name}: no start from a plain convolution known')
    if feature_norm(operator) is not None:
        taps = torch.eye(operator.taps).view(-1, 1, *operator.kernel_size)
        taps = taps.repeat(operator.in_channels, 1, 1, 1)
        operator.feature.weight.copy_(taps)
        set_moments(operator.norm, 0, 1 - operator.norm.eps)
    operator.weight.copy_(weight * factor)
    if operator.bias is not None:
        operator.bias.copy_(0 if bias is None else bias)
    return factor


@torch.no_grad()
def set_moments(
    norm: nn.Module, mean: Tensor | float, var: Tensor | float
) -> None:
    """Make a batch norm the identity, for inputs with the given moments.

    With gamma = sqrt(var + eps) and beta = mean it is the identity in eval
    mode, and close to it on training batches that have these moments.

    Args:
        norm (nn.Module): BN or SyncBN, changed in place.
        mean (Tensor | float): per channel, or of all.
        var (Tensor | float): likewise.
    """
    norm.running_mean.zero_().add_(mean)
    norm.running_var.zero_().add_(var)
    norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    norm.bias.copy_(norm.running_mean)


def _open_gates(gate: nn.Module) -> int:
    """Set the gates inside a module to 1/2; what undoes that."""
    factor = 1
    for part in gate.modules():
        if isinstance(part, ChannelGate):
            nn.init.zeros_(part.expand.weight)
            factor *= 2
        elif isinstance(part, SpatialGate):
            nn.init.zeros_(part.conv.weight)
            factor *= 2
        elif isinstance(part, CoordinateGate):
            for layer in (part.expand_h, part.expand_w):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
            factor *= 4
    return factor
