"""Choice between the forms that compute one operator.

Every operator has a ``reference`` form, the specification, and faster forms
beside it, each with a ``supports`` function that says whether it can run on
the given arguments. On which device a form runs is torch's business.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from mmrfa.errors import InputError
from mmrfa.ops.common.tracing import (
    is_compiling,
    is_transformed,
)

# Every form, in the order in which they are tried.
BACKENDS = ('compiled', 'fused', 'reference')
_FORMER = {'cpu': 'compiled', 'triton': 'compiled'}

_LOGGER = logging.getLogger('mmrfa.ops')
# The form insisted on, of the whole process, and who said so. A plain
# variable, which compilers can read and watch.
_forced: tuple[str | None, str] = (
    os.environ.get('MMRFA_BACKEND') or None,
    'environment variable MMRFA_BACKEND',
)
# What was said so far and still holds; the last one counts.
_said = [_forced]
_LOCK = Lock()


class Form(NamedTuple):
    """One form of an operator.

    Attributes:
        run (Callable): computes the operator; signature of the reference.
        supports (Callable): same arguments; None when ``run`` can take them,
            else a sentence that says why not.
        automatic (Callable): ``automatic(x)``; None where the form may be
            taken although it was not named, else a sentence as above.
            Defaults to anywhere.
    """

    run: Callable
    supports: Callable[..., str | None]
    automatic: Callable[[Tensor], str | None] = lambda x: None


def operator(reference: Callable, **faster: Form) -> Callable:
    """Make the public function of an operator out of its forms.

    Args:
        reference (Callable): the reference form; its signature and docstring
            become those of the public function.
        **faster (Form): the other forms, keyed by name.

    Returns:
        Callable: the public function. It takes one more keyword, ``backend``
        (str | None): a form to insist on, None for the best that can run. The
        available names are its ``backends`` attribute.
    """
    name_of = reference.__name__
    order = [name for name in BACKENDS if name in faster]

    def why_not(
        name: str, named: bool, args: tuple, kwargs: dict
    ) -> str | None:
        if is_transformed():
            return 'torch.func and forward-mode derivatives need reference'
        reason = None
        if not named:
            x = args[0] if args else kwargs['x']
            reason = faster[name].automatic(x)
        return reason or faster[name].supports(*args, **kwargs)

    @wraps(reference)
    def call(*args, backend: str | None = None, **kwargs):
        if not args and 'x' not in kwargs:
            return reference(**kwargs)  # says what is missing
        name = _checked(backend, 'backend') or forced_backend()
        # What torch.jit records shall mean the same everywhere, and count
        # the operations of the equations.
        if name == 'reference' or torch.jit.is_tracing():
            return reference(*args, **kwargs)
        if name is not None:
            if name not in faster:
                reason = f'it has {", ".join((*order, "reference"))} only'
            else:
                reason = why_not(name, True, args, kwargs)
            if reason is not None:
                raise RuntimeError(
                    f"backend '{name}' cannot run {name_of}: {reason}"
                )
            return faster[name].run(*args, **kwargs)
        for name in order:
            reason = why_not(name, False, args, kwargs)
            if reason is None:
                return faster[name].run(*args, **kwargs)
            if not is_compiling():
                _LOGGER.debug('%s: not %s: %s', name_of, name, reason)
        return reference(*args, **kwargs)

    call.backends = (*order, 'reference')
    return call


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Insist on one form inside a ``with`` block, in every thread.

    Takes precedence over ``MMRFA_BACKEND``; the former choice is restored on
    exit, also after an exception. Of blocks of several threads the one that
    was entered last counts, until it ends. Programs recorded by
    ``torch.jit.trace`` hold the reference form all the same.

    Args:
        name (str | None): one of ``mmrfa.ops.BACKENDS``; None lets every
            operator choose by itself, whatever ``MMRFA_BACKEND`` says.

    Raises:
        InputError: unknown name.
    """
    global _forced
    own = _checked(name, 'backend'), 'backend'
    with _alone():
        _said.append(own)
        _forced = own
    try:
        yield
    finally:
        with _alone():
            del _said[next(i for i, said in enumerate(_said) if said is own)]
            _forced = _said[-1]


def _alone() -> AbstractContextManager:
    """Keep other threads out; compilers know no locks."""
    return nullcontext() if is_compiling() else _LOCK


def forced_backend() -> str | None:
    """The form insisted on by ``use_backend`` or ``MMRFA_BACKEND``."""
    return _checked(*_forced)


def _checked(name: str | None, what: str) -> str | None:
    if name is None or name in BACKENDS:
        return name
    if name in _FORMER:
        raise InputError(
            f"{what}: '{name}' is called '{_FORMER[name]}' now, on every "
            'device'
        )
    raise InputError(
        f'{what}: expected one of {", ".join(BACKENDS)}, got {name!r}'
    )
