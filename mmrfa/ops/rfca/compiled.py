"""RFCAConv by the compiled kernels: nothing of size C*K is kept."""

from torch import Tensor

from mmrfa.ops import primitives
from mmrfa.ops.common.autocast import as_autocast
from mmrfa.ops.common.gates import CoordinateGates
from mmrfa.ops.common.norm import ConvNorm, normalize, unsupported_norm
from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives.folding import folded_features
from mmrfa.ops.primitives.rf_conv import LineGates
from mmrfa.ops.primitives.support import unsupported
from mmrfa.ops.rfca.fused import line_gates


def supports(
    x: Tensor,
    feature: ConvNorm,
    gates: CoordinateGates,
    conv: Conv,
    window: Window,
) -> str | None:
    """None when :func:`rfca_conv2d` can run, else why not."""
    reason = unsupported_norm(gates.squeeze.norm)
    return reason or unsupported(x, feature, conv, window)


def rfca_conv2d(
    x: Tensor,
    feature: ConvNorm,
    gates: CoordinateGates,
    conv: Conv,
    window: Window,
) -> Tensor:
    """Compute ``reference.rfca_conv2d``.

    The features are made twice, for the means and for the sum; kept are ``x``
    and single lines of it.
    """
    x = as_autocast(x)
    folded = folded_features(x, feature, window)
    means = primitives.rf_line_pool(x, folded, window)
    rows, columns = (mean.to(x.dtype) for mean in means)
    rows, columns = line_gates(rows, columns, gates, normalize)
    weights = LineGates(rows.float(), columns.float())
    return primitives.rf_conv(x, folded, conv, window, gates=weights)
