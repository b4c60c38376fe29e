"""Killed at any moment, a run goes on to the very same weights."""

import functools
import signal

import pytest
import torch

from mmrfa.checkpoints import writing

from .tiny_runs import (
    TinyBackbone,
    assert_same,
    detection,
    in_child,
    killing,
    segmentation,
    train,
)

RUNS = dict(segmentation=(segmentation, 'iter_6.pth'),
            detection=(detection, 'epoch_3.pth'))  # fmt: skip


@pytest.fixture(scope='module')
def uninterrupted(sample_root, tmp_path_factory):
    """The last checkpoints of runs without workers that nothing stopped."""
    folder = tmp_path_factory.mktemp('uninterrupted')
    for task, (make, _) in RUNS.items():
        config = make(sample_root, folder / task)
        assert in_child(functools.partial(train, config)) == 0
    return folder


@pytest.mark.parametrize('task', RUNS)
def test_same_weights(uninterrupted, sample_root, tmp_path, task):
    """Also with workers instead of none."""
    make, last = RUNS[task]

    def run(resume: bool) -> None:
        if not resume:
            # In the middle of writing the second checkpoint.
            killing(
                writing.Path, 'replace',
                lambda path, to: to.name in ('iter_4.pth', 'epoch_2.pth'),
            )  # fmt: skip
        train(make(sample_root, tmp_path, workers=2), resume)

    assert in_child(lambda: run(False)) == -signal.SIGKILL
    assert in_child(lambda: run(True)) == 0
    assert_same(uninterrupted / task / last, tmp_path / last)
    assert not list(tmp_path.glob('.*.part'))


@pytest.mark.parametrize(
    ('task', 'number'),
    [('segmentation', signal.SIGINT), ('detection', signal.SIGTERM)],
)
def test_stopped(uninterrupted, sample_root, tmp_path, task, number, capfd):
    """The step is finished and saved, the command to go on is printed."""
    make, last = RUNS[task]
    calls = []

    def run() -> None:
        killing(
            TinyBackbone, 'forward',
            lambda *_: trains() and (calls.append(0) or len(calls) == 3),
            number,
        )  # fmt: skip
        train(make(sample_root, tmp_path))

    assert in_child(run) == 128 + number
    saved = dict(segmentation='iter_3.pth', detection='epoch_0_iter_3.pth')
    assert [p.name for p in tmp_path.glob('*.pth')] == [saved[task]]
    err = capfd.readouterr().err
    assert f'{number.name}: saving after this step' in err
    assert f'after iteration 3; saved {tmp_path / saved[task]}; to go' in err
    assert '--resume=auto' in err
    assert in_child(lambda: train(make(sample_root, tmp_path), True)) == 0
    assert_same(uninterrupted / task / last, tmp_path / last)


def test_second_signal_stops_at_once(sample_root, tmp_path) -> None:
    for number in signal.SIGTERM, signal.SIGINT:

        def run(number=number) -> None:
            for _ in range(2):
                killing(TinyBackbone, 'forward', lambda *_: trains(), number)
            try:
                train(segmentation(sample_root, tmp_path))
            except KeyboardInterrupt:
                raise SystemExit(130) from None

        expected = 130 if number == signal.SIGINT else -signal.SIGTERM
        assert in_child(run) == expected
        assert not list(tmp_path.glob('*.pth'))


def trains() -> bool:
    """Not in the trial before the run, nor in validation."""
    return torch.is_grad_enabled()
