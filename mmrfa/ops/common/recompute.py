"""Keep inputs instead of intermediate results for backward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmrfa.ops.common.norm import read_by
from mmrfa.ops.common.tracing import is_compiling, is_exporting


def recompute(
    run: Callable[..., Any], *inputs: Tensor, layers: tuple = ()
) -> Any:
    """Run a function that is run once more in backward.

    ``torch.utils.checkpoint`` without its random state, and with the check
    that autograd makes for every other operator: an input that was modified
    in place since must not give wrong gradients silently.

    Args:
        run (Callable): a pure function of the inputs and of what it closes
            over.
        *inputs (Tensor): kept for backward.
        layers (tuple): what it closes over, as ``read_by`` takes it.

    Returns:
        Any: ``run(*inputs)``.
    """
    if not torch.is_grad_enabled() or is_exporting():
        return run(*inputs)
    if is_compiling():  # it tracks modified inputs by itself
        return checkpoint(run, *inputs, use_reentrant=False)
    watched = *inputs, *read_by(layers)
    if not any(tensor.requires_grad for tensor in watched):
        return run(*inputs)
    versions = [tensor._version for tensor in watched]

    def guarded(*inputs: Tensor) -> Any:
        if versions != [tensor._version for tensor in watched]:
            raise RuntimeError(
                'one of the tensors needed for backward was modified by '
                'an in-place operation after the forward pass'
            )
        return run(*inputs)

    return checkpoint(
        guarded,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        determinism_check='none',
    )
