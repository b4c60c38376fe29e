"""Keep inputs instead of intermediate results for backward."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Since torch 2.3. Older ones cannot compile a recomputation (seen: 2.1).
_is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)


def recompute(run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Run a function that is run once more in backward.

    ``torch.utils.checkpoint`` without its random state, and with the check
    that autograd makes for every other operator: an input that was modified
    in place since must not give wrong gradients silently.

    Args:
        run (Callable): a pure function of the inputs and of what it closes
            over.
        *inputs (Tensor): kept for backward.

    Returns:
        Tensor: ``run(*inputs)``.
    """
    if not torch.is_grad_enabled():
        return run(*inputs)
    if _is_compiling():
        guarded = run
    else:
        versions = [tensor._version for tensor in inputs]

        def guarded(*inputs: Tensor) -> Tensor:
            if versions != [tensor._version for tensor in inputs]:
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
