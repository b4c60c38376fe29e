"""RFCBAMConv by the compiled kernels: nothing of size C*K is kept."""

import torch
from torch import Tensor

from mmrfa.ops import primitives
from mmrfa.ops.common.autocast import as_autocast
from mmrfa.ops.common.gates import channel_gate
from mmrfa.ops.common.norm import ConvNorm
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives.folding import folded_features
from mmrfa.ops.primitives.rf_conv import PositionGates
from mmrfa.ops.primitives.support import unsupported
from mmrfa.ops.rfcbam.fused import position_gate
from mmrfa.ops.rfcbam.reference import CBAMGates


def supports(
    x: Tensor,
    feature: ConvNorm,
    gates: CBAMGates,
    conv: Conv,
    window: Window,
) -> str | None:
    """None when :func:`rfcbam_conv2d` can run, else why not."""
    return unsupported(x, feature, conv, window)


def rfcbam_conv2d(
    x: Tensor,
    feature: ConvNorm,
    gates: CBAMGates,
    conv: Conv,
    window: Window,
) -> Tensor:
    """Compute ``reference.rfcbam_conv2d``.

    The features are made twice, for the pooled maps and for the sum; kept are
    ``x`` and maps of one channel.
    """
    x = as_autocast(x)
    folded = folded_features(x, feature, window)
    maximum, mean = primitives.rf_channel_pool(x, folded, window)
    pooled = torch.stack([maximum, mean], 1).to(x.dtype)
    position = position_gate(pooled, gates.spatial, window.kernel_size)
    channel = channel_gate(x, gates.squeeze, gates.expand, max_pool=False)
    weights = PositionGates(channel.flatten(1).float(), position.float())
    return primitives.rf_conv(x, folded, conv, window, gates=weights)
