"""RFCBAMConv with features from the Triton kernels."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mmrfa.ops.rfcbam.fused import compute
from mmrfa.ops.triton_launch import unsupported
from mmrfa.ops.triton_ops import with_features


def supports(
    x: Tensor,
    feature_weight: Tensor,
    norm: Callable,
    *args,
    **kwargs,
) -> str | None:
    """None when :func:`rfcbam_conv2d` can run, else why not."""
    return unsupported(x, feature_weight, norm)


rfcbam_conv2d = partial(compute, with_features)
