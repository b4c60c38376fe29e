"""How a primitive is told to torch: once, for every device.

Each is an operator ``mmrfa::...`` with a plain form, that runs wherever there
is no kernel, and a fake, that knows the shapes of the results.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrfa.ops.common.tracing import is_transformed
from mmrfa.ops.primitives.cpu.build import old_torch

_AUTOCAST = 'AutocastCPU', 'AutocastCUDA'
_REASON = old_torch(torch.__version__)
if _REASON is None:
    _LIBRARY = torch.library.Library('mmrfa', 'FRAGMENT')


def unavailable() -> str | None:
    """Why this torch has no such operators, or None.

    The functions then run their plain form directly.
    """
    return _REASON


def define(
    schema: str,
    plain: Callable,
    fake: Callable,
    keep: Callable | None = None,
    backward: Callable | None = None,
) -> Callable:
    """Make an operator of torch.

    What it computes in follows from its tensors: it means the same under
    autocast. Transforms of ``torch.func`` and forward-mode derivatives, which
    it does not know, are refused.

    Args:
        schema (str): ``name(arguments) -> results``.
        plain (Callable): computes it in stock PyTorch.
        fake (Callable): the same on tensors without data.
        keep (Callable | None): ``setup_context`` of a
            ``torch.autograd.Function``.
        backward (Callable | None): its ``backward``; None: the operator has
            no derivative.

    Returns:
        Callable: the operator; where torch is too old, ``plain``.
    """
    if _REASON is not None:
        return plain
    name = schema.partition('(')[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    operator = getattr(torch.ops.mmrfa, name).default
    _LIBRARY.impl(name, plain, 'CompositeExplicitAutograd')
    torch.library.register_fake(f'mmrfa::{name}', fake, lib=_LIBRARY)
    for key in _AUTOCAST:
        _LIBRARY.impl(name, _without_autocast(operator, key), key)
    if backward is not None:
        _LIBRARY.impl(name, _derived(operator, keep, backward), 'Autograd')
    return operator


def _without_autocast(operator: Callable, key: str) -> Callable:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def run(*args):
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return operator(*args)

    return run


def _derived(
    operator: Callable, keep: Callable, backward: Callable
) -> Callable:
    def forward(*args):
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*args)

    # Not torch.library.register_autograd: under torch.func.jvp its operators
    # have a derivative of zero (seen: 2.13).
    methods = dict(forward=forward, setup_context=keep, backward=backward)
    methods = {name: staticmethod(method) for name, method in methods.items()}
    function = type(operator._opname, (torch.autograd.Function,), methods)

    def run(*args):
        if is_transformed():
            raise RuntimeError(
                f'{operator} knows no transform of torch.func and no '
                "forward-mode derivative; the backend 'reference' does"
            )
        # apply costs as much as a small layer.
        wanted = torch.is_grad_enabled() and any(
            _is_tensor(value) and value.requires_grad for value in args
        )
        return function.apply(*args) if wanted else forward(*args)

    return run


# Gradients by way of the plain form -----------------------------------------


def gradients(plain: Callable, inputs: Sequence, grads: Any) -> list[Tensor]:
    """Of every argument, in stock PyTorch: the plain form of a backward.

    Args:
        plain (Callable): computes the operator.
        inputs (Sequence): its arguments; those that are not tensors have no
            gradient.
        grads (Tensor | tuple[Tensor, ...]): gradients of what it returns.

    Returns:
        list: one gradient per argument; None where there is none.
    """
    detached = [
        value.detach().requires_grad_() if _is_tensor(value) else value
        for value in inputs
    ]
    # It may run below autograd, as in a dispatch mode.
    barred = torch._C.DispatchKey.AutogradFunctionality
    with (
        torch._C._SetExcludeDispatchKeyGuard(barred, False),
        torch.enable_grad(),
    ):
        return _gradients(plain, detached, grads, create_graph=False)


def differentiable(
    plain: Callable, inputs: Sequence, grads: Any
) -> list[Tensor]:
    """Gradients that can be differentiated again; see :func:`gradients`.

    The kernels of a backward have no derivative of their own. Grad mode is on
    in a backward only where somebody asked for one (``create_graph``).
    """
    # Aliases: an input may depend on another one, whose gradient must count
    # the direct way alone.
    aliases = [
        value.view_as(value) if _is_tensor(value) else value
        for value in inputs
    ]
    with torch.autocast(aliases[0].device.type, enabled=False):
        return _gradients(plain, aliases, grads, create_graph=True)


def _gradients(
    plain: Callable, inputs: list, grads: Any, create_graph: bool
) -> list[Tensor]:
    wanted = [
        i
        for i, value in enumerate(inputs)
        if _is_tensor(value) and value.requires_grad
    ]
    if not wanted:
        return [None] * len(inputs)
    found = torch.autograd.grad(
        plain(*inputs),
        [inputs[i] for i in wanted],
        grads,
        create_graph=create_graph,
        materialize_grads=True,
    )
    result = [None] * len(inputs)
    for i, gradient in zip(wanted, found):
        result[i] = gradient
    return result


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def empty_like(value: Tensor | None, x: Tensor) -> Tensor:
    """What a backward returns for an argument, in a fake.

    Args:
        value (Tensor | None): the argument; absent, it has no elements.
        x (Tensor): on the device of the results.
    """
    if value is None:
        return x.new_empty(0)
    return torch.empty_like(value, memory_format=torch.contiguous_format)
