"""Killed at any moment, a run goes on to the very same weights."""

import functools
import os
import pickle
import random
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from mmrfa.checkpoints import writing
from mmrfa.engine.seeding import _placed, _seeded, seed_samples
from mmrfa.engine.stopping import resume_command

from .tiny_runs import (
    TinyBackbone,
    assert_same,
    detection,
    in_child,
    kill_group,
    killing,
    segmentation,
    train,
    trains,
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
    ('task', 'number', 'step', 'saved'),
    [
        ('segmentation', signal.SIGINT, 3, 'iter_3.pth'),
        ('detection', signal.SIGTERM, 3, 'epoch_0_iter_3.pth'),
        ('detection', signal.SIGTERM, 4, 'epoch_1.pth'),  # its last step
    ],
)
def test_stopped(
    uninterrupted, sample_root, tmp_path, task, number, step, saved, capfd
):
    """The step is finished and saved, the command to go on is printed.

    Data workers get the signals of their group as well.
    """
    make, last = RUNS[task]
    calls = []

    def run() -> None:
        os.setpgrp()
        killing(
            TinyBackbone, 'forward',
            lambda *_: trains() and (calls.append(0) or len(calls) == step),
            number,
            kill_group,
        )  # fmt: skip
        train(make(sample_root, tmp_path, workers=1))

    assert in_child(run) == 128 + number
    assert [p.name for p in tmp_path.glob('*.pth')] == [saved]
    err = capfd.readouterr().err
    assert f'{number.name}: saving after this step' in err
    assert f'after iteration {step}; saved {tmp_path / saved}; to go' in err
    assert '--resume=auto' in err
    assert in_child(lambda: train(make(sample_root, tmp_path), True)) == 0
    assert_same(uninterrupted / task / last, tmp_path / last)
    # Also what was saved in the middle of an epoch goes.
    assert [p.name for p in tmp_path.glob('*.pth')] == [last]


def test_stopped_while_validating(
    uninterrupted, sample_root, tmp_path
) -> None:
    """Where the averaged weights stand in the place of those of training."""
    last = RUNS['segmentation'][1]

    seen = []

    def validates(model, _) -> bool:
        if not model.training:
            seen.append(0)  # the first is of the trial before the run
        return len(seen) == 2

    def run() -> None:
        killing(TinyBackbone, 'forward', validates, signal.SIGTERM)
        train(segmentation(sample_root, tmp_path))

    assert in_child(run) == 128 + signal.SIGTERM
    assert [p.name for p in tmp_path.glob('*.pth')] == ['iter_3.pth']
    resume = functools.partial(train, segmentation(sample_root, tmp_path))
    assert in_child(lambda: resume(True)) == 0
    assert_same(uninterrupted / 'segmentation' / last, tmp_path / last)


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


def test_command_to_go_on(monkeypatch) -> None:
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    words = 'tools/train.py a.py --resume b.pth --cfg-options c=1'.split()
    assert resume_command(words) == (
        'python tools/train.py --resume=auto a.py --cfg-options c=1'
    )
    words = ['mmrfa train', 'a.py', '--resume=auto']
    assert resume_command(words) == 'mmrfa train --resume=auto a.py'
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    assert resume_command(['train.py', 'a b.py']) == (
        "torchrun --nproc_per_node=2 train.py --resume=auto 'a b.py'"
    )


def test_spawned_workers_draw_the_same() -> None:
    """They get sampler and data set as bytes, and make the classes anew."""
    loader = DataLoader(Noise(), sampler=RandomSampler(range(4)))
    loader = seed_samples(loader, 5)
    draws = list(loader.sampler)
    here = [loader.dataset[draw] for draw in draws]
    data = pickle.dumps((draws, loader.dataset, loader.sampler))
    _seeded.cache_clear()
    _placed.cache_clear()
    draws, there, _ = pickle.loads(data)
    assert type(there) is not type(loader.dataset)
    assert [there[draw] for draw in draws] == here
    assert len(set(here)) == 4


class Noise(Dataset):
    """Samples that are drawn."""

    def __getitem__(self, index: int) -> float:
        return index + random.random() + torch.rand(()).item()
