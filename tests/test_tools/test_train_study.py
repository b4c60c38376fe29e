"""A study of a tiny run: stopped, started again, its row as it must be."""

import json
import os
import signal
import threading
import time
from functools import partial
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from mmrfa.checkpoints.reading import load_predictions
from mmrfa.results.costs import network, parameters
from mmrfa.results.finishing import finish, logged, trained
from mmrfa.results.pictures import (
    KINDS,
    PREDICTIONS,
    has_predictions,
    picture_file,
)
from mmrfa.results.queue import Cost, Job, Place, Queue, work_dir
from mmrfa.results.records import (
    digest,
    read_kept_scalars,
    read_records,
    scalars_file,
    scores_of,
    used_config,
)
from mmrfa.results.studies import Form, Study

from .tool_calls import TINY_SEG, environment, error_of, load_tool

FORM = 'RFAConv neutral'
OPTIONS = {'model.backbone.attention_conv.start': 'neutral'}


@pytest.fixture
def queue(tmp_path, sample_root, monkeypatch):
    """``queue()``: the run, and a queue for what of it is left."""
    for key, value in environment(MMRFA_DATA_ROOT=sample_root).items():
        monkeypatch.setenv(key, value)
    study = Study('tiny', 'Tiny', 'miou', 'test', (64, 64), pictures=(0, 2))
    job = Job(
        study,
        Form(FORM, 'tiny_seg', OPTIONS, 1),
        1,
        TINY_SEG,
        1,
        work_dir(tmp_path / 'runs', 'tiny', FORM, 1),
    )
    following = partial(load_tool('train_study.py').next_command, options=[])
    keep = partial(finish, results=tmp_path / 'results')

    def make() -> tuple[Job, Queue]:
        done = {r.key for r in read_records(tmp_path / 'results')}
        left = [] if job.key in done else [job]
        return job, Queue(left, following, keep, [Place(1)])

    return make


def test_stopped_and_started_again(queue, tmp_path, monkeypatch):
    job, first = queue()
    monkeypatch.setattr('mmrfa.results.queue.commit', lambda: 'one')

    def stop():
        while not any(line.get('step') == 1 for line in logged(job.work_dir)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert first.run() == 128 + signal.SIGTERM
    assert not trained(job)
    assert list(job.work_dir.glob('iter_*.pth'))
    assert read_records(tmp_path / 'results') == []
    monkeypatch.setattr('mmrfa.results.queue.commit', lambda: 'another')
    assert queue()[1].run() == 0
    assert 'resumed' in (job.work_dir / 'queue.log').read_text()
    assert queue()[1].total == 0
    predictions = job.work_dir / PREDICTIONS
    assert has_predictions(job)
    whole = predictions.read_bytes()
    predictions.write_bytes(whole[:99])  # killed while it was written
    assert not has_predictions(job)
    predictions.write_bytes(whole)
    (record,) = read_records(tmp_path / 'results')
    assert record.key == ('tiny', FORM, 1)
    lines = read_kept_scalars(scalars_file(tmp_path / 'results', *record.key))
    # every step once, whatever was done twice
    steps = [line['step'] for line in lines if 'loss' in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    scores = record.val, record.test
    assert scores_of(lines, 'miou') == pytest.approx(scores, abs=1e-4)
    assert record.steps == 6
    assert record.commit == 'one another'  # the code of each start
    assert record.recipe == digest(used_config(TINY_SEG, OPTIONS))
    assert json.loads(record.options) == OPTIONS
    assert record.peak_mb > 100
    assert record.seconds > 1
    # Of a run that outlived its queue: its steps at least.
    alone = finish(job, Cost(), Place(1), tmp_path / 'alone')
    spent = 6 * alone.step_seconds
    assert 0 < alone.seconds == pytest.approx(spent, abs=0.06)
    net = network(TINY_SEG, OPTIONS)
    assert net.backbone.layer4[0].conv1.start == 'neutral'
    assert record.params == parameters(net)
    # truth beside prediction, two images of every second pixel
    masks = Image.open(picture_file(tmp_path / 'results', *record.key))
    results = load_predictions(job.work_dir / PREDICTIONS)
    expected = [
        np.hstack([np.asarray(r[k]['data'])[0] for k in KINDS])
        for r in results
    ]
    assert np.array_equal(masks, np.vstack(expected)[::2, ::2])
    checkpoint = job.work_dir / 'iter_6.pth'
    assert record.checkpoint == sha256(checkpoint.read_bytes()).hexdigest()


def test_options_that_cannot_work(call, tmp_path, capsys):
    """Before a run is started, or none ever is."""
    file = tmp_path / 'runs.csv'
    file.write_bytes(b'\xff')
    for options, words in (
        (['--gpus', -1], '--gpus: expected 0 or more'),
        (['--work-dir', file], 'runs.csv is not a folder'),
        (['--results', file], 'runs.csv is not a folder'),
        (['--results', tmp_path], 'runs.csv: expected'),
        (['--cfg-options', 'junk'], '--cfg-options: expected KEY=VALUE'),
    ):
        status = call('train_study.py', 'camvid', *options)
        assert words in error_of(status, capsys.readouterr().err)


def test_dry_run_of_what_waits_for_another(call, tmp_path, capsys):
    folders = ['--work-dir', tmp_path, '--results', tmp_path, '--dry-run']
    names = 'camvid', 'camvid_finetune', '--seeds', 1, '--forms', 'plain'
    assert call('train_study.py', *names, *folders) == 0
    first, command, *rest = capsys.readouterr().out.splitlines()
    assert first == '# camvid: plain, seed 0'
    assert command.endswith('randomness.seed=0') and 'train.py' in command
    assert rest == [
        '# camvid_finetune: plain, seed 0',
        '# waits for camvid: plain, seed 0',
    ]
