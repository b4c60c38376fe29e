"""RFCAConv with features from the Triton kernels."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mmrfa.ops.norm import unsupported_norm
from mmrfa.ops.rfca.fused import compute
from mmrfa.ops.triton_launch import unsupported
from mmrfa.ops.triton_ops import with_features


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
