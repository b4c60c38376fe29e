"""RFCAConv by the compiled CPU kernels: nothing of size C*K kept."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmrfa.ops.cpu import folded_features, unsupported
from mmrfa.ops.folding import as_autocast
from mmrfa.ops.norm import unsupported_norm
from mmrfa.ops.receptive_field import Pair
from mmrfa.ops.rfca.fused import line_gates


def supports(
    x: Tensor,
    feature_weight: Tensor,
    norm: Callable,
    gate_params: tuple,
    *args,
    **kwargs,
) -> str | None:
    """None when :func:`rfca_conv2d` can run, else why not."""
    return unsupported(x, feature_weight, norm) or unsupported_norm(
        gate_params[2]
    )


def rfca_conv2d(
    x: Tensor,
    feature_weight: Tensor,
    norm: nn.Module,
    gate_params: tuple,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    feature_bias: Tensor | None = None,
) -> Tensor:
    """Compute ``reference.rfca_conv2d``.

    The features are made twice, for the means and for the sum; kept are ``x``
    and single lines of it.
    """
    x = as_autocast(x)
    geometry = (stride, padding, dilation)
    folded, shift, update = folded_features(
        x, feature_weight, feature_bias, norm, *geometry
    )
    means = torch.ops.mmrfa.rf_line_pool(
        x, folded, shift, weight.shape[2:], *geometry
    )
    rows, columns = (mean.to(x.dtype) for mean in means)
    rows, columns = line_gates(rows, columns, gate_params)
    out = torch.ops.mmrfa.rf_conv(
        x,
        None,
        folded,
        shift,
        weight,
        bias,
        rows.float(),
        columns.float(),
        *geometry,
        groups,
        False,
    )
    update()
    return out
