"""Curves and predictions as pictures: what the tools read, and refuse."""

import json
import os
import pickle
from functools import partial
from pathlib import Path

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


def test_endings_in_capitals(curves, log, tmp_path):
    assert curves('--out', tmp_path / 'b.PNG') == 0
    assert Image.open(tmp_path / 'b.PNG').format == 'PNG'


def test_a_full_disk_leaves_former_curves(
    curves, log, tmp_path, capsys, monkeypatch
):
    def fail(figure, path, **_):
        Path(path).write_text('half')
        raise OSError(27, 'File too large')

    monkeypatch.setattr('matplotlib.figure.Figure.savefig', fail)
    (tmp_path / 'a.png').write_text('kept')
    line = error_of(curves(), capsys.readouterr().err)
    assert line == f'error: File too large: {tmp_path / "a.png"}'
    assert (tmp_path / 'a.png').read_text() == 'kept'
    assert {p.name for p in tmp_path.iterdir()} == {'a.png', 'run'}


def test_damaged_logs_are_named(curves, log, capsys):
    lines = log.read_text().splitlines()
    log.write_text('\n'.join([lines[0][:9], *lines[1:]]))
    line = error_of(curves(), capsys.readouterr().err)
    assert f'{log}: expected a JSON object in line 1' in line
    log.write_text('{"mIoU": 40.0, "step": 2}\n')
    line = error_of(curves(), capsys.readouterr().err)
    assert 'found 1 logs without any' in line


@pytest.mark.parametrize(
    'line',
    ['{"loss": 1.0}', '{"loss": {}, "step": 3}', '{"loss": 1, "step": "x"}',
     f'{{"loss": 1, "step": 1{"0" * 400}}}'],
)  # fmt: skip
def test_what_is_no_number_is_not_drawn(curves, log, line):
    log.write_text(f'{line}\n{log.read_text()}')
    assert curves() == 0


def test_logs_and_pictures_that_are_no_files(
    call, curves, log, tmp_path, capsys
):
    log.write_text('[' * 10**5 + '\n{}')
    line = error_of(curves(), capsys.readouterr().err)
    assert f'{log}: expected a JSON object in line 1' in line
    log.unlink()
    os.mkfifo(log)
    line = error_of(curves(), capsys.readouterr().err)
    assert f'{log}: expected a file' in line
    (tmp_path / 'folder.png').mkdir()
    for name, expected in (
        ('a.xyz', 'ends in .png'),
        ('folder.png', 'ends in .png'),
    ):
        status = call(
            'analysis_tools/plot_curves.py', tmp_path / 'run', '--out',
            tmp_path / name,
        )  # fmt: skip
        assert expected in error_of(status, capsys.readouterr().err)


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
    other = tmp_path / 'photo.png'
    Image.new('RGB', (16, 12)).save(other)
    results = [result, dict(result, img_path=str(other))]
    assert show(content=pickle.dumps(results)) == 0
    names = {p.name for p in (tmp_path / 'pictures').iterdir()}
    assert names == {'photo.png', 'photo.jpg.png', 'photo.png.png'}


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


def test_predictions_that_are_no_labels(show, tmp_path, capsys):
    image = tmp_path / 'photo.png'
    Image.new('RGB', (16, 12)).save(image)
    os.mkfifo(tmp_path / 'pipe.png')
    good = dict(data=np.zeros((1, 12, 16), int))
    result = dict(
        img_path=str(image), gt_sem_seg=good, pred_sem_seg=dict(good)
    )
    for key, value, words in (
        ('img_path', 3, 'expected the image 3'),
        ('img_path', str(tmp_path / 'pipe.png'), 'pipe.png, got: no file'),
        ('gt_sem_seg', 3, 'expected gt_sem_seg of labels'),
        ('gt_sem_seg', dict(data=None), 'expected gt_sem_seg of labels'),
        ('pred_sem_seg', dict(data=np.zeros((2, 3, 4))), 'pred_sem_seg of'),
        ('pred_sem_seg', dict(data=np.full((2, 2), 999)), 'pred_sem_seg of'),
    ):
        status = show(content=pickle.dumps([{**result, key: value}]))
        assert words in error_of(status, capsys.readouterr().err)
    status = show('--num', 0)
    assert '--num: expected 1' in error_of(status, capsys.readouterr().err)


def test_photographs_are_not_replaced(show, tmp_path, capsys):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    Image.new('RGB', (16, 12)).save(folder / 'photo.png')
    before = (folder / 'photo.png').read_bytes()
    labels = dict(data=np.zeros((1, 12, 16), int))
    result = dict(
        img_path=str(folder / 'photo.png'),
        gt_sem_seg=labels,
        pred_sem_seg=labels,
    )
    status = show(content=pickle.dumps([result]))
    line = error_of(status, capsys.readouterr().err)
    assert 'photo.png: expected another file to write' in line
    assert (folder / 'photo.png').read_bytes() == before


def test_missing_photographs_are_named(show, capsys):
    labels = dict(data=np.zeros((1, 2, 2), int))
    result = dict(img_path='gone.jpg', gt_sem_seg=labels, pred_sem_seg=labels)
    status = show(content=pickle.dumps([result]))
    line = error_of(status, capsys.readouterr().err)
    assert 'expected the image gone.jpg' in line
