"""What every test shares: seeds, the sample data, the real data sets."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# Read when torch starts: threads that wait must not spin.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import torch

# Forms are compared to the last digits of float32.
torch.backends.cudnn.allow_tf32 = False
# Read when triton is imported: without a GPU its kernels are simulated.
if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session', autouse=True)
def few_threads() -> None:
    """Small tensors gain nothing from more threads than CI has cores."""
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Each test draws the same numbers, alone or among others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def kernels() -> None:
    """Skip where the CPU kernels are missing; CI has a compiler and fails."""
    from mmrfa.ops.primitives import cpu

    reason = cpu.unavailable()
    if reason is None:
        return
    if os.environ.get('MMRFA_REQUIRE_DATA') == '1':
        pytest.fail(f'backend cpu: {reason}')
    pytest.skip(f'backend cpu: {reason}')


@pytest.fixture
def triton() -> None:
    """Skip where Triton is missing; CI installs it and fails."""
    from mmrfa.ops.primitives import gpu

    reason = gpu.unavailable()
    if reason is None:
        return
    if os.environ.get('MMRFA_REQUIRE_TRITON') == '1':
        pytest.fail(f'backend triton: {reason}')
    pytest.skip(f'backend triton: {reason}')


@pytest.fixture
def own_choice():
    """The operators choose their form, whatever MMRFA_BACKEND says.

    For tests that feed what a named backend refuses (float64, SyncBN, no
    image), so that the suite can run with every backend named.
    """
    from mmrfa.ops import use_backend

    with use_backend(None):
        yield


@pytest.fixture(scope='session')
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated sample as a data root; do not write below it."""
    from mmrfa.datasets.sample import write_sample

    return write_sample(tmp_path_factory.mktemp('sample'))


@pytest.fixture(scope='session')
def data_root() -> Callable[[str], Path]:
    """``data_root('camvid')``: folder of a real data set, or skip the test.

    It is looked for in ``MMRFA_DATA_ROOT``, else in ``data/``. With
    ``MMRFA_REQUIRE_DATA=1``, as in CI, a missing folder fails the test.
    """

    def find(name: str) -> Path:
        folder = Path(os.environ.get('MMRFA_DATA_ROOT', REPO / 'data')) / name
        if folder.is_dir():
            return folder.resolve()
        reason = f'needs the data set {name}, no such folder: {folder}'
        if os.environ.get('MMRFA_REQUIRE_DATA') == '1':
            pytest.fail(reason)
        pytest.skip(reason)

    return find
