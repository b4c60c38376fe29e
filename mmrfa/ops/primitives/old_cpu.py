"""What the `cpu` forms share: when they can run, and their features."""

import warnings
from functools import cache, partial

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
    reason = unsupported_norm(norm)
    if reason is None:
        reason = native.unavailable()
        if reason is not None:
            _say_once(reason)
    return reason


@cache
def _say_once(reason: str) -> None:
    """Tell that the operators are slower here than they could be."""
    warnings.warn(
        f'mmrfa: the compiled CPU kernels are not used: {reason}',
        stacklevel=2,
    )


def moments(x: Tensor, *geometry: Pair) -> tuple[Tensor, Tensor]:
    """Mean (C, K) and covariance (C, K, K) of the receptive field."""
    return torch.ops.mmrfa.rf_moments(x, *geometry)


folded_features = partial(folding.folded_features, moments)
