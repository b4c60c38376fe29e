"""Curves and predictions as pictures: what the tools read, and refuse."""

import json
import pickle
from functools import partial

import numpy as np
import pytest
from PIL import Image

from .tool_calls import TINY_SEG, error_of

LINES = [
    {'loss': 1.0, 'step': 1},
    {'loss': 0.5, 'step': 2},
    {'mIoU': 40.0, 'step': 2},
]


@pytest.fixture
def log(tmp_path):
    file = tmp_path / 'run/20260101_000000/vis_data/scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(f'{json.dumps(line)}\n' for line in LINES))
    return file


@pytest.fixture
def curves(call, tmp_path):
    tool = 'analysis_tools/plot_curves.py'
    return partial(call, tool, tmp_path / 'run', '--out', tmp_path / 'a.png')


@pytest.mark.parametrize('rest', ['', '{"loss": 0.4, "st', '4'])
def test_curves_of_a_run_that_still_writes(curves, log, tmp_path, rest):
    log.write_text(log.read_text() + rest)
    assert curves() == 0
    width, height = Image.open(tmp_path / 'a.png').size
    assert width > 2 * height  # the loss and the mIoU, side by side


def test_damaged_logs_are_named(curves, log, capsys):
    lines = log.read_text().splitlines()
    log.write_text('\n'.join([lines[0][:9], *lines[1:]]))
    line = error_of(curves(), capsys.readouterr().err)
    assert f'{log}: expected JSON in line 1' in line
    log.write_text('{"mIoU": 40.0, "step": 2}\n')
    line = error_of(curves(), capsys.readouterr().err)
    assert 'found 1 logs without any' in line


@pytest.fixture
def show(call, tmp_path):
    tool = 'analysis_tools/show_predictions.py'

    def run(*options, content=None):
        file = tmp_path / 'predictions.pkl'
        if content is not None:
            file.write_bytes(content)
        return call(tool, TINY_SEG, file, tmp_path / 'pictures', *options)

    return run


def test_predictions_beside_the_truth(show, tmp_path):
    image = tmp_path / 'photo.jpg'
    Image.new('RGB', (16, 12)).save(image)
    labels = dict(data=np.arange(192).reshape(1, 12, 16) % 4)
    result = dict(img_path=str(image), gt_sem_seg=labels, pred_sem_seg=labels)
    assert show('--num', 1, content=pickle.dumps([result] * 3)) == 0
    assert [p.name for p in (tmp_path / 'pictures').iterdir()] == ['photo.png']


def test_bad_predictions_are_one_line(show, capsys):
    results = [
        dict(img_path='gone.jpg', gt_sem_seg=0, pred_sem_seg=0),
        dict(img_path='gone.jpg'),
    ]
    for content, words in (
        (None, 'expected a file of tools/test.py --out'),
        (b'no pickle', 'expected a file of tools/test.py --out'),
        (pickle.dumps(results), 'expected those of a segmentation test'),
    ):
        line = error_of(show(content=content), capsys.readouterr().err)
        assert words in line
    for option, words in (
        ('model', '--cfg-options: expected KEY=VALUE'),
        ('a=[(1,2', '--cfg-options'),
        ('test_dataloader=None', 'expected classes and a palette'),
    ):
        status = show('--cfg-options', option)
        assert words in error_of(status, capsys.readouterr().err)


def test_missing_photographs_are_named(show, capsys):
    labels = dict(data=np.zeros((1, 2, 2), int))
    result = dict(img_path='gone.jpg', gt_sem_seg=labels, pred_sem_seg=labels)
    status = show(content=pickle.dumps([result]))
    line = error_of(status, capsys.readouterr().err)
    assert 'expected the image gone.jpg' in line
