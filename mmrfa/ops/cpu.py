"""What the `cpu` forms share: when they can run, and their features."""

from functools import partial

import torch
from torch import Tensor

from mmrfa.ops import folding, native
from mmrfa.ops.norm import unsupported_norm
from mmrfa.ops.receptive_field import Pair

DTYPES = (torch.float32, torch.bfloat16)
MOST_TAPS = 121


def unsupported(x: Tensor, weight: Tensor, norm: object) -> str | None:
    """Why the kernels cannot run on this input, or None."""
    if x.device.type != 'cpu':
        return f'needs a CPU tensor, got one on {x.device}'
    if x.dtype not in DTYPES:
        return f'needs float32 or bfloat16, got {x.dtype}'
    if weight.shape[2:].numel() > MOST_TAPS:
        return f'needs at most {MOST_TAPS} taps, got {tuple(weight.shape[2:])}'
    if x.numel() == 0:
        return 'needs at least one image'
    return unsupported_norm(norm) or native.unavailable()


def moments(x: Tensor, *geometry: Pair) -> tuple[Tensor, Tensor]:
    """Mean (C, K) and covariance (C, K, K) of the receptive field."""
    return torch.ops.mmrfa.rf_moments(x, *geometry)


def features(
    x: Tensor, folded: Tensor, shift: Tensor, *geometry: Pair
) -> Tensor:
    """Features (N, C, K, Ho, Wo) without attention."""
    return torch.ops.mmrfa.rf_features(x, folded, shift, *geometry)


with_features = partial(folding.with_features, moments, features)
