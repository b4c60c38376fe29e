"""A whole checkpoint is there at every moment, and is found again."""

import copy
import math
import os
import resource
import shutil
import signal

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

from mmrfa.checkpoints import writing
from mmrfa.checkpoints.mmengine_loaders import ReadAhead
from mmrfa.checkpoints.reading import begin_of_run
from mmrfa.checkpoints.writing import write_whole
from mmrfa.engine.checkpoint_hook import KeepingCheckpointHook
from mmrfa.engine.lock import lock_work_dir
from mmrfa.engine.resuming import (
    changes,
    check_average,
    check_optimizer_state,
    check_schedule_state,
    find_whole_checkpoint,
    inexact_parts,
)
from mmrfa.errors import InputError

from .tiny_runs import in_child, killing, segmentation, train


def state(step: int, value: float = 1.0) -> dict:
    """The state of a training run, small."""
    return dict(
        meta=dict(epoch=0, iter=step),
        state_dict=dict(a=torch.full((3,), value)),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
        optimizer=dict(state={}, param_groups=[dict(params=[])]),
    )


@pytest.fixture
def work(tmp_path):
    """A work dir with three checkpoints, and a function that looks there."""
    for step in 2, 10, 9:
        torch.save(state(step), tmp_path / f'iter_{step}.pth')
    torch.save(state(99), tmp_path / 'best_mIoU_iter_99.pth')

    def find(folder=tmp_path):
        return find_whole_checkpoint(
            Config(dict(work_dir=str(folder))), ReadAhead()
        )

    return tmp_path, find


def test_newest_whole_one(work) -> None:
    folder, find = work
    assert find() == (str(folder / 'iter_10.pth'), [])
    newest = folder / 'iter_10.pth'
    whole = newest.read_bytes()
    nan = state(10, float('nan'))
    for damage, reason in (
        (whole[:-40], 'an archive without its end'),
        (b'', 'truncated'),
        (bytes(1000), 'truncated'),
        (whole[:300] + bytes(20) + whole[320:], 'damaged'),
        (nan, 'finite weights'),
        (dict(nan, message_hub=[]), 'message_hub'),
    ):
        if isinstance(damage, dict):
            torch.save(damage, newest)
        else:
            newest.write_bytes(damage)
        path, skipped = find()
        assert path == str(folder / 'iter_9.pth')
        assert len(skipped) == 1
        assert str(newest) in skipped[0] and reason in skipped[0]


@pytest.mark.parametrize(
    'content', [None, b'', b'\xff\x00', b'/gone/iter_10.pth', b'iter_2.pth']
)
def test_whatever_last_checkpoint_says(work, content) -> None:
    folder, find = work
    if content is not None:
        (folder / 'last_checkpoint').write_bytes(content)
    assert find()[0] == str(folder / 'iter_10.pth')


def test_wherever_the_folder_is(work, tmp_path) -> None:
    folder, find = work
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_10.pth'))
    moved = tmp_path / 'moved'
    moved.mkdir()
    for path in folder.glob('*.pth'):
        shutil.copy(path, moved)  # with new times, in any order
    assert find(moved)[0] == str(moved / 'iter_10.pth')
    # Between epochs stands what a signal left.
    epochs = tmp_path / 'epochs'
    epochs.mkdir()
    names = ['epoch_3', 'epoch_2_iter_7777', 'epoch_2']
    for name in names:
        torch.save(state(1), epochs / f'{name}.pth')
    for name in names:
        assert find(epochs)[0] == str(epochs / f'{name}.pth')
        (epochs / f'{name}.pth').unlink()
    assert find(epochs) == (None, [])


def test_those_of_the_run_that_began_last(work) -> None:
    """An earlier, longer run in the same folder is another run."""
    folder, find = work
    later = state(2)
    later['message_hub']['runtime_info'] = dict(run_begun=5.0)
    torch.save(later, folder / 'iter_2.pth')
    assert find()[0] == str(folder / 'iter_2.pth')
    newer = folder / 'iter_4.pth'
    for damage in b'', bytes(1000), (folder / 'iter_2.pth').read_bytes()[:-9]:
        newer.write_bytes(damage)
        path, skipped = find()
        assert path == str(folder / 'iter_2.pth') and len(skipped) == 1
        assert str(newer) in skipped[0]
    newer.unlink()
    for strange in math.nan, 'x', None, [7]:
        later['message_hub']['runtime_info'] = dict(run_begun=strange)
        torch.save(later, folder / 'iter_2.pth')
        assert find()[0] == str(folder / 'iter_10.pth')


def test_an_earlier_run_in_the_same_folder(sample_root, tmp_path) -> None:
    train(segmentation(sample_root, tmp_path, end=4))
    config = segmentation(sample_root, tmp_path, end=2)
    config.log_level = 'INFO'
    train(config)
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert f'{tmp_path} holds 1 checkpoints of earlier runs' in log
    names = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert names == ['iter_2.pth', 'iter_4.pth']
    found = find_whole_checkpoint(config, ReadAhead())
    assert found == (str(tmp_path / 'iter_2.pth'), [])
    # Going on is no new run: what it saves comes after what it began with.
    train(segmentation(sample_root, tmp_path, end=3), resume=True)
    begun = {begin_of_run(path) for path in tmp_path.glob('iter_[23].pth')}
    assert len(begun) == 1
    earlier = tmp_path / 'iter_4.pth'
    assert begin_of_run(earlier) < begun.pop()
    # Unless somebody goes back to the earlier run, and on from there.
    config = segmentation(sample_root, tmp_path, end=6)
    config.load_from = str(earlier)
    train(config, resume=True)
    found = find_whole_checkpoint(config, ReadAhead())
    assert found == (str(tmp_path / 'iter_6.pth'), [])


def test_none_is_whole(work) -> None:
    """It would start at 0 and overwrite them."""
    folder, find = work
    for path in folder.glob('iter_*.pth'):
        path.write_bytes(b'')
    with pytest.raises(InputError, match='got 3 that are none .*iter_10.pth'):
        find()


@pytest.mark.parametrize('moment', ['write', 'sync', 'move', 'remove'])
def test_killed_while_saving(sample_root, tmp_path, moment) -> None:
    """With one checkpoint to keep, one is whole whenever the run ends."""

    def run() -> None:
        later = lambda *_: (tmp_path / 'iter_2.pth').exists()  # noqa: E731
        owner, name = dict(
            write=(os, 'fsync'), sync=(writing, '_sync'),
            move=(writing.Path, 'replace'),
            remove=(KeepingCheckpointHook, '_remove'),
        )[moment]  # fmt: skip
        killing(owner, name, later)
        train(segmentation(sample_root, tmp_path))

    assert in_child(run) == -signal.SIGKILL
    config = Config(dict(work_dir=str(tmp_path)))
    path, skipped = find_whole_checkpoint(config, ReadAhead())
    whole = {str(tmp_path / f'iter_{step}.pth') for step in (2, 4)}
    assert path in whole and skipped == []


def test_killed_while_saving_the_first(sample_root, tmp_path) -> None:
    """Half a checkpoint is none: the run starts at 0."""

    def run() -> None:
        killing(writing.Path, 'replace', lambda path, to: to.suffix == '.pth')
        train(segmentation(sample_root, tmp_path))

    assert in_child(run) == -signal.SIGKILL
    assert [*tmp_path.glob('.*.part')]
    config = Config(dict(work_dir=str(tmp_path)))
    assert find_whole_checkpoint(config, ReadAhead()) == (None, [])


def test_best_goes_last(sample_root, tmp_path, monkeypatch) -> None:
    """The best so far is removed when the better one is there."""
    seen = []
    remove = KeepingCheckpointHook._remove

    def watched(self, path):
        seen.append(sorted(p.name for p in tmp_path.glob('best*')))
        remove(self, path)

    monkeypatch.setattr(KeepingCheckpointHook, '_remove', watched)
    scores = iter([0.0, 1.0, 2.0])  # the first is of the trial
    config = segmentation(sample_root, tmp_path, save_best='mIoU')
    monkeypatch.setattr(
        'mmseg.evaluation.IoUMetric.compute_metrics',
        lambda *_: dict(mIoU=next(scores)),
    )
    train(config)
    best = ['best_mIoU_iter_3.pth', 'best_mIoU_iter_6.pth']
    assert best in seen
    assert [p.name for p in tmp_path.glob('best*')] == best[1:]


def test_full_disk_names_the_file(tmp_path) -> None:
    target = tmp_path / 'iter_6.pth'
    write_whole(b'whole', target)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match='iter_6.pth'):
            write_whole(bytes(2000), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert target.read_bytes() == b'whole'
    assert [p.name for p in tmp_path.iterdir()] == ['iter_6.pth']


def test_one_writer(tmp_path) -> None:
    lock_work_dir(str(tmp_path))
    lock_work_dir(str(tmp_path))  # by the same run
    caught = tmp_path / 'caught'

    def other() -> None:
        # A fork knows what its parent holds; another run does not.
        lock_work_dir.__globals__['_held'].clear()
        try:
            lock_work_dir(str(tmp_path))
        except InputError as error:
            caught.write_text(str(error))

    assert in_child(other) == 0
    assert f'another one (process {os.getpid()})' in caught.read_text()


def test_a_killed_run_has_no_lock(tmp_path) -> None:
    def other() -> None:
        lock_work_dir(str(tmp_path))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(other) == -signal.SIGKILL
    assert (tmp_path / '.lock').read_text() not in ('', str(os.getpid()))
    lock_work_dir(str(tmp_path))
    assert (tmp_path / '.lock').read_text() == str(os.getpid())


def test_changed_settings() -> None:
    before = """
a = dict(type='A', lr=0.1, sub=[dict(x=1), dict(x=2)])
optim_wrapper = dict(optimizer=dict(lr=0.1))
work_dir = 'one'
gone = 1
"""
    now = """
a = dict(type='A', lr=0.1, sub=[dict(x=1), dict(x=3)])
optim_wrapper = dict(optimizer=dict(lr=0.2))
work_dir = 'two'
"""
    assert changes(before, now) == [
        'a.sub.1.x: 2 became 3',
        'gone: 1 became nothing',
        'optim_wrapper.optimizer.lr: 0.1 became 0.2, without effect: the '
        'checkpoint brings its own',
    ]
    assert changes(before, before) == []
    (line,) = changes('import (', now)
    assert 'cannot be compared' in line


def test_state_of_other_parts_is_refused(sample_root, tmp_path) -> None:
    """It would be mixed with what the run has, or end in a traceback."""
    train(segmentation(sample_root, tmp_path, end=2))
    path = tmp_path / 'iter_2.pth'
    content = torch.load(path, weights_only=False)
    schedules = [dict(type='LinearLR', by_epoch=False)]

    def hub(**entries: object) -> dict:
        info = content['message_hub']['runtime_info'] | entries
        return dict(content['message_hub'], runtime_info=info)

    nan = torch.tensor(float('nan'))
    resumed = dict(content['message_hub'], resumed_keys=dict(epoch='x'))
    for key, value, match in (
        ('optim_wrapper.optimizer', dict(type='SGD', lr=0.1), 'state of SGD'),
        ('param_scheduler', [], r"schedules .*\[\], got that of \['PolyLR'\]"),
        ('param_scheduler', schedules, r"\['LinearLR'\], got that of"),
    ):
        config = segmentation(sample_root, tmp_path, end=4)
        part, _, last = key.rpartition('.')
        (config[part] if part else config)[last] = value
        with pytest.raises(InputError, match=match):
            train(config, resume=True)
    meta, optimizer = content['meta'], content['optimizer']
    for part, value, named in (
        ('param_schedulers', 3, 'param_schedulers'),
        ('param_schedulers', [3], 'param_schedulers'),
        ('ema_state_dict', 3, 'ema_state_dict'),
        ('early_stopping', [3], 'early_stopping'),
        ('early_stopping', [dict(count='x')], 'early_stopping'),
        ('batch_sizes', dict(a=3), 'batch_sizes'),
        ('batch_sizes', dict(a=dict(_input_size='x', b=[0])), 'batch_sizes'),
        ('message_hub', resumed, 'message_hub.resumed_keys'),
        ('meta', dict(meta, iter=-4), 'meta.epoch and meta.iter'),
        ('meta', dict(meta, seed='x'), 'meta.seed'),
        ('message_hub', hub(best_score='x'), 'best_score'),
        ('message_hub', hub(best_score=10**400), 'best_score'),
        ('message_hub', hub(best_ckpt=3), '.*best_ckpt'),
        # Names of files are made of them, which are removed.
        ('message_hub', hub(keep_ckpt_ids=['../../a', 2]), '.*keep_ckpt_ids'),
        ('optimizer', dict(optimizer, state={0: 3}), 'optimizer.state'),
        (
            'optimizer',
            dict(optimizer, param_groups=[dict(params=[[]])]),
            '.*num',
        ),
        ('optimizer', dict(optimizer, state={0: dict(a=nan)}), 'finite'),
    ):
        torch.save(dict(content, **{part: value}), path)
        with pytest.raises(InputError, match=f'none .*expected {named}'):
            train(segmentation(sample_root, tmp_path, end=4), resume=True)
    states = copy.deepcopy(optimizer['state'])
    states[0]['exp_avg'] = torch.zeros(3)
    other = dict(optimizer, state=states)
    torch.save(dict(content, optimizer=other), path)
    named = r'optimizer.state.0.exp_avg of shape \(.*got \(3,\)'
    with pytest.raises(InputError, match=named):
        train(segmentation(sample_root, tmp_path, end=4), resume=True)


@pytest.mark.parametrize(
    ('place', 'value', 'named'),
    [
        ('optimizer.state.0.exp_avg', 'x', 'of numbers'),
        ('optimizer.param_groups.0.lr', -1, 'a finite number of 0 or more'),
        ('optimizer.param_groups.0.lr', 10**400, 'a finite number'),
        ('optimizer.param_groups.0.lr', torch.ones(2), 'a finite number'),
        ('optimizer.param_groups.0.betas', [0.9], '2 entries'),
        ('optimizer.param_groups.0.eps', math.nan, 'a finite number'),
        ('optimizer.param_groups.0.amsgrad', [], 'True, False or None'),
        ('param_schedulers', [], 'the state of the 1 schedules'),
        ('param_schedulers.0', dict(step=3), 'with _global_step'),
        ('param_schedulers.0.param_name', 'x', 'lr, got'),
        ('param_schedulers.0.last_step', 'x', 'a finite number'),
        ('param_schedulers.0.base_values', [0.1, 0.2], '1 entries'),
        ('ema_state_dict.weight', torch.zeros(2), r'of shape \(1, 1\)'),
    ],
)
def test_state_that_no_run_can_go_on_from(place, value, named) -> None:
    """What torch and MMEngine would take, or say in a traceback."""
    model = torch.nn.Linear(1, 1)
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW')))
    schedule = dict(type='PolyLR', by_epoch=False, end=6)
    config = Config(dict(param_scheduler=schedule))
    of_run = PARAM_SCHEDULERS.build(dict(schedule, optimizer=wrapper))
    model(torch.ones(1, 1)).sum().backward()
    wrapper.step()
    of_run.step()
    content = dict(
        meta={},
        optimizer=wrapper.state_dict(),
        param_schedulers=[of_run.state_dict()],
        ema_state_dict=model.state_dict(),
    )

    def check(content: dict) -> None:
        check_average(content, model, 'a.pth')
        check_optimizer_state(content, wrapper, 'a.pth')
        check_schedule_state(content, config, wrapper, 'a.pth')

    check(content)
    damaged = part = copy.deepcopy(content)
    *outer, last = (int(p) if p.isdecimal() else p for p in place.split('.'))
    for entry in outer:
        part = part[entry]
    part[last] = value
    with pytest.raises(InputError, match=f'expected {place}.*{named}'):
        check(damaged)


def test_what_does_not_resume_exactly_is_named() -> None:
    pipeline = [
        dict(type='mmdet.CachedMosaic'),
        dict(type='Mosaic', use_cached=False),
        dict(type='YOLOv5MixUp', use_cached=True),
    ]
    loader = dict(dataset=dict(datasets=[dict(pipeline=pipeline)]))
    found = inexact_parts([loader, None, [dict(type='EarlyStoppingHook')]])
    assert found == {'CachedMosaic', 'YOLOv5MixUp', 'EarlyStoppingHook'}
