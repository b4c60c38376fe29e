"""The kernels for GPUs without a GPU."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mmrfa.ops.primitives import gpu


@contextmanager
def simulated_gpu() -> Iterator[None]:
    """Let Triton's interpreter run the kernels for GPUs, on CPU tensors.

    Inside the ``with`` block they stand in the place of the CPU kernels, in
    every thread; blocks may be nested. Slow: a tenth of a second and more for
    every tile.

    Raises:
        RuntimeError: the kernels are not available, or ``TRITON_INTERPRET=1``
            was not in the environment, which triton reads when it is imported.
    """
    if gpu.unavailable():
        raise RuntimeError(f'kernels for GPUs: {gpu.unavailable()}')
    if not gpu.interpreted():
        raise RuntimeError(
            'kernels for GPUs: needs TRITON_INTERPRET=1 in the environment '
            f'before triton is imported, got '
            f'{os.environ.get("TRITON_INTERPRET")}'
        )
    if gpu.simulated:
        yield
        return
    with warnings.catch_warnings():
        # that these override the C++ kernels, as they are meant to
        warnings.filterwarnings('ignore', 'Warning only once for all operat')
        library = gpu.register('CPU')
    gpu.simulated = True
    try:
        yield
    finally:
        gpu.simulated = False
        library._destroy()
