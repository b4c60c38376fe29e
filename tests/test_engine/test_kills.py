"""Killed at random moments, again and again, a run ends all the same."""

import os
import random
import shutil
import signal
import time

import pytest

from .tiny_runs import assert_same, detection, in_child, segmentation, train

# Of each task. More before a release: MMRFA_KILLS=20.
KILLS = int(os.environ.get('MMRFA_KILLS', '2'))


@pytest.mark.parametrize(
    ('make', 'last'),
    [(segmentation, 'iter_6.pth'), (detection, 'epoch_3.pth')],
    ids=['segmentation', 'detection'],
)
def test_kills(sample_root, tmp_path, make, last) -> None:
    """Wherever it was: while it starts, trains, writes or validates."""
    wanted, work = tmp_path / 'wanted', tmp_path / 'work'
    draw = random.Random(15)

    def run(folder, **options) -> int:
        workers = draw.randrange(3)
        return in_child(
            lambda: train(make(sample_root, folder, workers), resume=True),
            **options,
        )

    start = time.monotonic()
    assert run(wanted) == 0
    takes = time.monotonic() - start
    kills = 0
    while kills < KILLS:
        # Late enough that a run in pieces comes forward.
        moment = draw.uniform(0.2, 1.0) * takes
        status = run(work, kill_after=moment)
        if status == -signal.SIGKILL:
            kills += 1
            continue
        assert status == 0
        assert_same(wanted / last, work / last)
        shutil.rmtree(work)
    assert run(work) == 0
    assert_same(wanted / last, work / last)
