"""RFCAConv with features from the compiled CPU kernels."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mmrfa.ops.cpu import unsupported, with_features
from mmrfa.ops.norm import unsupported_norm
from mmrfa.ops.rfca.fused import compute


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


rfca_conv2d = partial(compute, with_features)
