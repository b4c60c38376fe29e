"""The kernels for the CPU: C++, built by ``setup.py``, loaded here.

Importing never fails: :func:`unavailable` says why the kernels are not there.
They are loaded at once, since compilers do not trace that.
"""

import ctypes
import warnings
from functools import cache

import torch

from mmrfa.ops.common.tracing import is_compiling
from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives.cpu import build

DTYPES = (torch.float32, torch.bfloat16)


def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or why there is none."""
    reason = build.old_torch(torch.__version__)
    if reason is not None:
        return None, reason
    stem = build.library_stem(torch.__version__)
    found = sorted(build.FOLDER.glob(f'{stem}.*'))
    if not found:
        others = sorted(build.FOLDER.glob(f'{build.PREFIX}*'))
        if others:
            return None, (
                f'its library was built for another torch ({others[0].name}), '
                f'this is torch {torch.__version__}; reinstall mmrfa'
            )
        return None, (
            'its library was not built: install mmrfa from source where '
            'torch and a C++ compiler are there, without build isolation'
        )
    try:
        library = ctypes.CDLL(str(found[0]))
    except OSError as error:
        reason = f'its library does not load: {str(error).splitlines()[0]}'
        return None, reason
    for name in 'sources', 'instruction_set', 'register':
        getattr(library, f'mmrfa_{name}').restype = ctypes.c_char_p
    # Nothing is registered yet: neither old code nor code this CPU cannot run.
    digest = build.sources_digest()
    if digest and library.mmrfa_sources().decode() != digest:
        return None, (
            f'its library ({found[0].name}) was built from other sources '
            'than those beside it; reinstall mmrfa'
        )
    if not library.mmrfa_instruction_set():
        return None, 'this CPU has neither AVX2 nor AVX-512'
    error = library.mmrfa_register()
    if error:
        return None, f'torch refuses its operators: {error.decode()}'
    return library, None


_LIBRARY, _REASON = _load()
MOST_TAPS = _LIBRARY.mmrfa_most_taps() if _LIBRARY else 0


def unavailable() -> str | None:
    """Why the kernels cannot be used here, or None."""
    return _REASON


def instruction_set() -> str:
    """What the kernels use of this CPU: ``'avx2'`` or ``'avx512'``."""
    return _LIBRARY.mmrfa_instruction_set().decode()


def uses_threads() -> bool:
    """Whether the library was compiled with threads."""
    return bool(_LIBRARY.mmrfa_uses_threads())


def unsupported(dtype: torch.dtype, window: Window) -> str | None:
    """Why the kernels cannot take such input, or None.

    Args:
        dtype (torch.dtype): of x.
        window (Window): of the operator.
    """
    if dtype not in DTYPES:
        return f'needs float32 or bfloat16, got {dtype}'
    if _REASON is not None:
        if not is_compiling():
            _say_once(_REASON)
        return _REASON
    if window.taps > MOST_TAPS:
        return f'needs at most {MOST_TAPS} taps, got {window.kernel_size}'
    return None


@cache
def _say_once(reason: str) -> None:
    """Tell that the operators are slower here than they could be."""
    warnings.warn(
        f'mmrfa: the compiled CPU kernels are not used: {reason}',
        stacklevel=2,
    )
