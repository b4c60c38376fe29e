"""Choice between the forms that compute one operator.

Every operator has a ``reference`` form, the specification. Faster forms are
added beside it under a backend name, each with a ``supports`` function that
says whether it can run on the given arguments.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import NamedTuple

from mmrfa.errors import InputError

# Every backend name, in the order in which they are tried.
BACKENDS = ('cpu', 'triton', 'fused', 'reference')

_LOGGER = logging.getLogger('mmrfa.ops')
_FORCED: ContextVar[str | None] = ContextVar('mmrfa_backend', default=None)


class Backend(NamedTuple):
    """One form of an operator.

    Attributes:
        run (Callable): computes the operator; signature of the reference.
        supports (Callable): same arguments; None when ``run`` can take them,
            else a sentence that says why not.
        automatic (bool): whether the form is taken where no backend was
            named. False for one whose speed was not measured yet. Defaults
            to True.
    """

    run: Callable
    supports: Callable[..., str | None]
    automatic: bool = True


def _anything(*args, **kwargs) -> None:
    """``supports`` of the reference form: it takes whatever is valid."""


def operator(reference: Callable, **faster: Backend) -> Callable:
    """Make the public function of an operator out of its forms.

    Args:
        reference (Callable): the reference form; its signature and docstring
            become those of the public function.
        **faster (Backend): the other forms, keyed by backend name.

    Returns:
        Callable: the public function. It takes one more keyword, ``backend``
        (str | None): a name to insist on, None for the best that can run. The
        available names are its ``backends`` attribute.
    """
    forms = {**faster, 'reference': Backend(reference, _anything)}
    forms = {name: forms[name] for name in BACKENDS if name in forms}

    @wraps(reference)
    def call(*args, backend: str | None = None, **kwargs):
        name = _check(backend) or forced_backend()
        # Where a backend has no form of this operator there is nothing to
        # insist on: the operator runs as it would without a choice.
        if name in forms:
            reason = forms[name].supports(*args, **kwargs)
            if reason is not None:
                raise RuntimeError(
                    f"backend '{name}' cannot run {reference.__name__}: "
                    f'{reason}'
                )
            return forms[name].run(*args, **kwargs)
        for name, form in forms.items():
            if form.automatic:
                reason = form.supports(*args, **kwargs)
            else:
                reason = 'runs only where it is named'
            if reason is None:
                return form.run(*args, **kwargs)
            _LOGGER.debug('%s: not %s: %s', reference.__name__, name, reason)
        raise AssertionError('the reference form takes everything')

    call.backends = tuple(forms)
    return call


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Insist on one backend inside a ``with`` block.

    Takes precedence over ``MMRFA_BACKEND``; the former choice is restored on
    exit, also after an exception.

    Args:
        name (str | None): one of ``mmrfa.ops.BACKENDS``; None lets every
            operator choose by itself, whatever ``MMRFA_BACKEND`` says.

    Raises:
        InputError: unknown name.
    """
    token = _FORCED.set(_check(name) or 'auto')
    try:
        yield
    finally:
        _FORCED.reset(token)


def forced_backend() -> str | None:
    """The backend insisted on by ``use_backend`` or ``MMRFA_BACKEND``."""
    name = _FORCED.get()
    if name is None:
        name = _check(
            os.environ.get('MMRFA_BACKEND') or None,
            'environment variable MMRFA_BACKEND',
        )
    return None if name == 'auto' else name


def _check(name: str | None, what: str = 'backend') -> str | None:
    if name is not None and name not in BACKENDS:
        raise InputError(
            f'{what}: expected one of {", ".join(BACKENDS)}, got {name!r}'
        )
    return name
