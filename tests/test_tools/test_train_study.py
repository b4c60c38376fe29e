"""A study on tiny runs: stopped, started again, its rows as they must be."""

import json
import os
import signal
import threading
import time
from functools import partial

import pytest

from mmrfa.results.finishing import finish, logged, trained
from mmrfa.results.queue import Job, Place, Queue, work_dir
from mmrfa.results.records import (
    digest,
    read_kept_scalars,
    read_records,
    scalars_file,
    scores_of,
    used_config,
)
from mmrfa.results.studies import Form, Study

from .tool_calls import TINY_SEG, environment, load_tool

OPTIONS = {
    'plain': {'model.backbone.attention_conv': None},
    'RFAConv neutral': {'model.backbone.attention_conv.start': 'neutral'},
}


@pytest.fixture
def queue(tmp_path, sample_root, monkeypatch):
    """``queue()``: a queue of two forms of which one is stopped before."""
    for key, value in environment(MMRFA_DATA_ROOT=sample_root).items():
        monkeypatch.setenv(key, value)
    study = Study('tiny', 'Tiny', 'miou', 'test', (64, 64))
    jobs = [
        Job(
            study,
            Form(name, 'tiny_seg', options, 1),
            1,
            TINY_SEG,
            1,
            work_dir(tmp_path / 'runs', 'tiny', name, 1),
        )
        for name, options in OPTIONS.items()
    ]
    following = partial(load_tool('train_study.py').next_command, options=[])
    keep = partial(finish, results=tmp_path / 'results')

    def make() -> tuple[list[Job], Queue]:
        done = {r.key for r in read_records(tmp_path / 'results')}
        left = [job for job in jobs if job.key not in done]
        return jobs, Queue(left, following, keep, [Place(1)], print)

    return make


def test_stopped_and_started_again(queue, tmp_path):
    jobs, first = queue()
    folder = jobs[0].work_dir

    def stop():
        while not any(line.get('step') == 1 for line in logged(folder)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert first.run() == 128 + signal.SIGTERM
    assert not trained(jobs[0])
    assert list(folder.glob('iter_*.pth'))
    assert read_records(tmp_path / 'results') == []
    _, second = queue()
    assert second.run() == 0
    assert 'resumed' in (folder / 'queue.log').read_text()
    assert queue()[1].total == 0
    records = read_records(tmp_path / 'results')
    assert [record.form for record in records] == [*OPTIONS]
    for job, record in zip(jobs, records):
        path = scalars_file(tmp_path / 'results', *record.key)
        lines = read_kept_scalars(path)
        # every step once, whatever was done twice
        steps = [line['step'] for line in lines if 'loss' in line]
        assert steps == [1, 2, 3, 4, 5, 6]
        assert scores_of(lines, 'miou') == (record.val, record.test)
        assert record.steps == 6
        assert record.recipe == digest(
            used_config(TINY_SEG, OPTIONS[record.form])
        )
        assert json.loads(record.options) == OPTIONS[record.form]
        assert record.peak_mb > 100
        assert record.seconds > 1
        assert len(record.checkpoint) == 64
        assert (job.work_dir / 'iter_6.pth').exists()
    plain, neutral = records
    assert plain.params < neutral.params
    assert plain.gflops < neutral.gflops
