"""RFCBAMConv with features from the compiled CPU kernels."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from mmrfa.ops.cpu import unsupported, with_features
from mmrfa.ops.rfcbam.fused import compute


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
