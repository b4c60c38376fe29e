"""The measure for faster forms: error against float64."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmrfa.ops import BACKENDS

# What rounding alone may cost, relative to the largest exact value.
FLOOR = {
    torch.float64: 1e-13,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}


def runnable_backends(operator: Callable) -> list[str]:
    """Names of the forms that an operator of ``mmrfa.ops`` has.

    Raises:
        AssertionError: none besides the reference, so that a test over them
            would test nothing.
    """
    names = [name for name in BACKENDS if name in operator.backends]
    assert len(names) > 1, f'{operator.__name__} has the reference form only'
    return names


def assert_no_worse(
    name: str,
    ours: Tensor,
    reference: Tensor,
    exact: Tensor,
    factor: float = 2,
) -> None:
    """Check that a form errs no more than the reference form does.

    Args:
        name (str): of the quantity, for the message.
        ours (Tensor): from the form under test.
        reference (Tensor): from the reference form, dtype of ``ours``.
        exact (Tensor): from the reference form in float64.
        factor (float): how many times the reference's error is allowed, on
            top of :data:`FLOOR`. Defaults to 2.

    Raises:
        AssertionError: the error is larger, or the shape or dtype differs.
    """
    assert ours.shape == exact.shape, (name, ours.shape, exact.shape)
    assert ours.dtype == reference.dtype, (name, ours.dtype, reference.dtype)
    # In half precision a ReLU that flips near zero moves single elements by
    # any amount: there the whole is measured, else the worst element.
    half = ours.dtype in (torch.float16, torch.bfloat16)

    def size(tensor: Tensor) -> float:
        tensor = tensor.double()
        return (tensor.norm() if half else tensor.abs().max()).item()

    scale = size(exact)
    if scale < 1e-9:  # vanishes but for rounding: measure absolutely
        scale, factor = 1.0, 10 * factor
    error = size(ours - exact) / scale
    theirs = size(reference - exact) / scale
    bound = factor * theirs + FLOOR[ours.dtype]
    assert error <= bound, (
        f'{name}: relative error {error:.2e}, the reference has '
        f'{theirs:.2e}, allowed {bound:.2e}'
    )
