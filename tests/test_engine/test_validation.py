"""A run that goes on first makes the validation that it was to make."""

import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import ValLoop
from mmseg.evaluation import IoUMetric

from mmrfa.checkpoints.reading import load_checkpoint_file

from .tiny_runs import (
    TinyBackbone,
    assert_same,
    in_child,
    killing,
    segmentation,
    train,
    trains,
)

UNITS = 'iter', 'epoch'
# Validations of a run that early stopping ends; it was to have 9.
VALIDATIONS = 4
# Steps in between.
STEPS = 2


def config(root: Path, folder: Path, unit: str) -> Config:
    """A run in which much depends on the metrics of each validation."""
    made = segmentation(root, folder, save_best='mIoU')
    by_epoch = unit == 'epoch'
    stock = made.default_hooks
    stock.logger = dict(type='LoggerHook', log_metric_by_epoch=by_epoch)
    stock.checkpoint.update(by_epoch=by_epoch, interval=1 if by_epoch else 2)
    if by_epoch:
        made.train_dataloader.dataset.indices = 2 * STEPS  # two in a batch
        made.train_dataloader.sampler.type = 'DefaultSampler'
        made.train_cfg = dict(by_epoch=True, max_epochs=9, val_interval=1)
        made.param_scheduler[0].update(by_epoch=True)
    else:
        made.train_cfg.update(max_iters=9 * STEPS, val_interval=STEPS)
    made.param_scheduler.append(
        dict(type='ReduceOnPlateauLR', monitor='mIoU', rule='greater',
             patience=0)
    )  # fmt: skip
    made.custom_hooks.append(
        dict(type='EarlyStoppingHook', monitor='mIoU', patience=3)
    )
    made.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    return made


def run(root: Path, folder: Path, unit: str, resume: bool = False) -> None:
    # Always the same: each validation but the first is in vain.
    IoUMetric.compute_metrics = lambda *_: dict(mIoU=50.0)
    train(config(root, folder, unit), resume)


def steps_of(folder: Path) -> list[int]:
    """Where metrics were logged, in the order of the starts."""
    return [
        json.loads(line)['step']
        for log in sorted(folder.glob('*/vis_data/scalars.json'))
        for line in log.read_text().splitlines()
        if 'mIoU' in line
    ]


@pytest.fixture(scope='module')
def uninterrupted(sample_root, tmp_path_factory):
    """Runs that nothing but early stopping ended."""
    folder = tmp_path_factory.mktemp('uninterrupted')
    for unit in UNITS:
        go = functools.partial(run, sample_root, folder / unit, unit)
        assert in_child(go) == 0
        assert len(steps_of(folder / unit)) == VALIDATIONS
    return folder


def log_of(folder: Path) -> str:
    return ''.join(log.read_text() for log in folder.glob('*/*.log'))


def nth(number: int, condition: Callable[..., bool]) -> Callable[..., bool]:
    """Of the calls for which something is true, the one of a number."""
    seen = []

    def is_it(*args) -> bool:
        if condition(*args):
            seen.append(args)
            return len(seen) == number
        return False

    return is_it


def kill_while_validating(number: int, how: int) -> None:
    """In the validation of a number, between two of its batches."""
    second = nth(number, lambda loop, batch, data: batch == 1)
    killing(ValLoop, 'run_iter', second, how)


@pytest.mark.parametrize('unit', UNITS)
@pytest.mark.parametrize('moment', ['before', 'within', 'behind', 'last'])
def test_made_on_resuming(uninterrupted, sample_root, tmp_path, moment, unit):
    """Stopped or killed around the second validation, or in the last."""
    wanted = uninterrupted / unit
    number = signal.SIGTERM if moment == 'before' else signal.SIGKILL

    def interrupted() -> None:
        if moment in ('before', 'behind'):
            step = nth(2 * STEPS + (moment == 'behind'), lambda *_: trains())
            killing(TinyBackbone, 'forward', step, number)
        else:
            kill_while_validating(4 if moment == 'last' else 2, number)
        run(sample_root, tmp_path, unit)

    status = 128 + number if moment == 'before' else -number
    assert in_child(interrupted) == status
    resumed = functools.partial(run, sample_root, tmp_path, unit, True)
    assert in_child(resumed) == 0
    steps = steps_of(wanted)
    again = steps[1:2] * (moment == 'behind')
    assert steps_of(tmp_path) == sorted(steps + again)
    names = sorted(path.name for path in wanted.glob('*.pth'))
    assert names == sorted(path.name for path in tmp_path.glob('*.pth'))
    best, last = names
    assert_same(wanted / last, tmp_path / last)
    states = [
        load_checkpoint_file(folder / best)['state_dict']
        for folder in (wanted, tmp_path)
    ]
    for key, value in states[0].items():
        assert torch.equal(states[1][key], value), key
    content = load_checkpoint_file(tmp_path / last)
    assert content['message_hub']['runtime_info']['best_score'] == 50.0
    assert content['early_stopping'] == [dict(count=2, best=50.0)]


@pytest.mark.parametrize('unit', UNITS)
def test_nothing_is_left(sample_root, tmp_path, monkeypatch, unit) -> None:
    """Of a run that came to its end, unless its last validation is due."""
    made = config(sample_root, tmp_path, unit)
    plan = made.train_cfg
    plan['max_epochs' if unit == 'epoch' else 'max_iters'] = plan.val_interval
    made.log_level = 'INFO'
    train(made)
    count = plan.val_interval
    assert steps_of(tmp_path) == [count]
    checkpoints = {p: p.stat().st_mtime_ns for p in tmp_path.glob('*.pth')}
    train(made, resume=True)
    assert steps_of(tmp_path) == [count]
    found = {p: p.stat().st_mtime_ns for p in tmp_path.glob('*.pth')}
    assert found == checkpoints
    name = 'epochs' if unit == 'epoch' else 'iterations'
    assert (
        f'--resume: all {count} {name} are done, and the validation behind '
        'them; there is nothing left to do'
    ) in log_of(tmp_path)
    (tmp_path / 'last_validation').unlink()
    train(made, resume=True)
    assert steps_of(tmp_path) == [count, count]
    begins = f'--resume: begins with the validation after {count} {name}'
    assert begins in log_of(tmp_path)


def test_stopped_while_validating_again(sample_root, tmp_path) -> None:
    """Nothing new is saved before the first step."""

    def stopped(resume: bool) -> None:
        kill_while_validating(1, signal.SIGTERM)
        run(sample_root, tmp_path, 'epoch', resume)

    for resume in False, True:
        again = functools.partial(stopped, resume)
        assert in_child(again) == 128 + signal.SIGTERM
        assert [p.name for p in tmp_path.glob('*.pth')] == ['epoch_1.pth']
    rest = functools.partial(run, sample_root, tmp_path, 'epoch', True)
    assert in_child(rest) == 0
    assert steps_of(tmp_path) == [1, 2, 3, 4]
