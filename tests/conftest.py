"""What every test shares: seeds, the sample data, the real data sets."""

import os
import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

# Read when torch starts: threads that wait must not spin.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
# One of several workers leaves the other cores to them, and so do the
# processes that its tests start.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ['OMP_NUM_THREADS'] = '1'

import torch

# Forms are compared to the last digits of float32.
torch.backends.cudnn.allow_tf32 = False
# Read when triton is imported: without a GPU its kernels are simulated.
if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')

REPO = Path(__file__).resolve().parents[1]
# Left out by `make test-fast`, beside what is marked in its file: what trains,
# compiles, simulates a GPU or starts processes.
SLOW_PLACES = tuple(
    REPO / 'tests' / place
    for place in (
        'test_tools',
        'test_datasets/test_configs_data.py',
        'test_models/test_converted.py',
        'test_ops/test_triton.py',
        'test_results/test_costs.py',
        'test_results/test_metafiles.py',
    )
)
SLOW = {
    'test_a_seed_means_what_it_means_to_mmengine',
    'test_an_experiment_of_a_few_lines',
    'test_best_goes_last',
    'test_clean',
    'test_killed_while_saving',
    'test_made_on_resuming',
    'test_nobody_reads_the_output',
    'test_nothing_is_left',
    'test_one_process_stops_all',
    'test_same_weights',
    'test_second_signal_stops_at_once',
    'test_kills',
    'test_state_of_other_parts_is_refused',
    'test_stopped',
    'test_stopped_while_validating',
    'test_stopped_while_validating_again',
    'test_built_once_and_read_once',
    'test_builds_and_runs',
    'test_compiles_whole',
    'test_detector_starts_as_its_plain_twin',
    'test_environment_variable',
    'test_everything_learns',
    'test_exports_for_any_size',
    'test_features_are_the_originals',
    'test_gradcheck',
    'test_matches_reference_in_bfloat16',
    'test_one_import_registers_everything',
    'test_opcheck',
    'test_plain_forms_where_there_is_no_kernel',
    'test_programs_run',
    'test_training_mode_is_close_once_calibrated',
    'test_trains_without_any_openmmlab_package',
    'test_variant_is_its_twin_with_an_operator',
    'test_voc_data',
    'test_without_a_seed_runs_differ',
    'test_without_mmpretrain_one_line_says_so',
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = getattr(item, 'originalname', item.name)
        places = item.path, *item.path.parents
        if name in SLOW or any(place in places for place in SLOW_PLACES):
            item.add_marker(pytest.mark.slow)


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


def skip(reason: str, demand: str) -> None:
    """Skip a test, or fail it where ``demand`` is set, as it is in CI."""
    if os.environ.get(demand) == '1':
        pytest.fail(f'{demand}=1, but {reason}')
    pytest.skip(reason)


@pytest.fixture
def kernels() -> None:
    """Skip where the CPU kernels are missing (MMRFA_REQUIRE_KERNELS)."""
    from mmrfa.ops.primitives import cpu

    if reason := cpu.unavailable():
        skip(f'kernels for CPUs: {reason}', 'MMRFA_REQUIRE_KERNELS')


@pytest.fixture
def triton() -> None:
    """Skip where Triton is missing (MMRFA_REQUIRE_KERNELS)."""
    from mmrfa.ops.primitives import gpu

    if reason := gpu.unavailable():
        skip(f'kernels for GPUs: {reason}', 'MMRFA_REQUIRE_KERNELS')


@pytest.fixture(scope='session')
def mmyolo() -> None:
    """Skip where the paper's detectors cannot be built.

    They need mmyolo and mmcv's operators (MMRFA_REQUIRE_KERNELS).
    """
    for name in 'mmyolo', 'mmcv._ext':
        if find_spec(name) is None:
            skip(f'{name} is not installed', 'MMRFA_REQUIRE_KERNELS')


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
        skip(reason, 'MMRFA_REQUIRE_DATA')

    return find
