"""Prediction by checkpoint and by exported file, on images and videos."""

import json
import resource
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mmrfa.deploy.network import load_network
from mmrfa.deploy.predictor import Predictor
from mmrfa.deploy.sources import Source
from mmrfa.engine.config import load_config

from .tiny_networks import (
    SEG,
    YOLOX,
    masks_of,
    operators,
    options_of,
)
from .tool_calls import error_of


def test_segments_a_folder(call, seg_checkpoint, photos, tmp_path, capsys):
    """As the network does one by one; the batch size changes nothing.

    With the ratio kept, the second image comes at another size.
    """
    option = 'test_dataloader.dataset.pipeline.1.keep_ratio=True'
    for size in (1, 2):
        status = call(
            'predict.py', SEG, seg_checkpoint, photos, '--batch-size', size,
            '--out', tmp_path / f'out{size}', '--device', 'cpu',
            '--cfg-options', option,
        )  # fmt: skip
        assert status == 0, capsys.readouterr().err
    assert '3/3' in capsys.readouterr().err
    config = load_config(SEG, options_of(['', option]))
    model = load_network(config, str(seg_checkpoint))
    alone = list(Predictor(config, model)(Source(str(photos))))
    one, two = masks_of(tmp_path / 'out1'), masks_of(tmp_path / 'out2')
    assert list(one) == list(two) == ['0.png', '1.png', '2.png']
    for name, prediction in zip(one, alone):
        wanted = prediction.sample.pred_sem_seg.data[0].numpy()
        assert one[name].shape == prediction.image.shape[:2]
        assert (one[name] == wanted).all()
        assert (one[name] == two[name]).all()
    assert len(np.unique(list(one.values())[1])) > 1  # not a constant
    colours = Image.open(tmp_path / 'out1/masks/0.png').getpalette()[:6]
    assert colours == [0, 0, 0, 230, 60, 60]
    with Image.open(tmp_path / 'out1/overlays/1.jpg') as picture:
        assert picture.size == (60, 50)


def write_clip(path: Path) -> None:
    """Three frames of noise, ten a second."""
    code = cv2.VideoWriter_fourcc(*'MJPG')
    video = cv2.VideoWriter(str(path), code, 10, (64, 48))
    for _ in range(3):
        noise = np.random.randint(0, 255, (48, 64, 3), np.uint8)
        video.write(noise)
    video.release()


def test_a_video_becomes_a_video(call, seg_checkpoint, tmp_path):
    path = tmp_path / 'clip.avi'
    write_clip(path)
    out = tmp_path / 'out'
    options = '--out', out, '--batch-size', 2, '--device', 'cpu'
    assert call('predict.py', SEG, seg_checkpoint, path, *options) == 0
    assert len(masks_of(out)) == 3
    assert {p.name for p in out.iterdir()} == {'masks', 'clip.mp4'}
    written = Source(str(out / 'clip.mp4'))
    assert written.count == 3 and written.rate == 10
    assert {f.pixels.shape for f in written} == {(48, 64, 3)}


def test_a_video_without_space_is_one_line(
    call, seg_checkpoint, tmp_path, capsys
):
    """The file system takes no file as large as the video."""
    path = tmp_path / 'clip.avi'
    write_clip(path)
    out = tmp_path / 'out'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        status = call(
            'predict.py', SEG, seg_checkpoint, path, '--out', out,
            '--device', 'cpu',
        )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    line = error_of(status, capsys.readouterr().err)
    assert 'clip.mp4: expected 3 frames in it' in line
    assert {p.name for p in out.iterdir()} == {'masks'}


def test_a_video_that_ends_early_is_told(
    call, seg_checkpoint, tmp_path, capsys
):
    path = tmp_path / 'clip.avi'
    write_clip(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    out = tmp_path / 'out'
    options = '--out', out, '--device', 'cpu'
    assert call('predict.py', SEG, seg_checkpoint, path, *options) == 0
    assert 'could be read up to image' in capsys.readouterr().err


@operators
def test_boxes_in_coco_form(call, yolox_checkpoint, photos, tmp_path):
    from pycocotools.coco import COCO

    out = tmp_path / 'out'
    status = call(
        'predict.py', YOLOX, yolox_checkpoint, photos / '[12].png',
        '--out', out, '--score', 0.001, '--device', 'cpu',
    )  # fmt: skip
    assert status == 0
    config = load_config(str(YOLOX))
    truth = COCO(out / 'predictions.json')
    content = json.loads((out / 'predictions.json').read_text())
    assert [c['name'] for c in content['categories']] == [
        'RBC',
        'WBC',
        'Platelets',
    ]
    found = content['annotations']
    assert found and truth.loadRes(found).getAnnIds()
    sizes = {im['id']: (im['width'], im['height']) for im in content['images']}
    assert list(sizes.values()) == [(60, 50), (40, 30)]
    for box in found:
        *_, width, height = box['bbox']
        assert box['area'] == width * height > 0
        assert 0 <= box['score'] <= 1
    model = load_network(config, str(yolox_checkpoint))
    (alone,) = Predictor(config, model)(Source(str(photos / '1.png')))
    wanted = alone.sample.pred_instances
    got = [box for box in found if box['image_id'] == 0]
    assert len(got) == len(wanted)
    boxes = torch.tensor([box['bbox'] for box in got])
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(boxes, wanted.bboxes)
    assert [box['category_id'] for box in got] == wanted.labels.tolist()
    assert len(list((out / 'overlays').iterdir())) == 2


def test_bad_input_is_one_line(call, seg_checkpoint, photos, tmp_path, capsys):
    (photos / 'bad.jpg').write_bytes(b'no image')
    broken = tmp_path / 'clip.mp4'
    broken.write_bytes(b'no video')
    empty = tmp_path / 'empty'
    empty.mkdir()
    other = tmp_path / 'other.pth'
    torch.save(dict(state_dict=torch.nn.Conv2d(1, 1, 1).state_dict()), other)
    pixel = tmp_path / 'pixel.png'
    Image.new('RGB', (1, 1)).save(pixel)
    options = '--out', tmp_path / 'pixel', '--device', 'cpu'
    status = call('predict.py', SEG, seg_checkpoint, pixel, *options)
    line = error_of(status, capsys.readouterr().err)
    assert f'visualizer cannot draw {pixel}' in line
    out = tmp_path / 'out'
    for arguments, words in (
        ([other, photos], 'expected the'),
        ([tmp_path / 'none.pth', photos], 'expected a file, found none'),
        ([tmp_path / 'none.onnx', photos], 'expected a file, found none'),
        ([seg_checkpoint, empty], 'expected images'),
        ([seg_checkpoint, broken], 'that OpenCV can read'),
        ([seg_checkpoint, photos / 'bad.jpg'], 'bad.jpg: expected an image'),
        ([seg_checkpoint, photos, '--batch-size', 0], '--batch-size'),
        ([seg_checkpoint, photos, '--device', 'tpu'], '--device tpu'),
        ([seg_checkpoint, photos, '--device', 'meta'], '--device meta'),
        ([seg_checkpoint, photos, '--score', 'nan'], '--score: expected 0'),
        ([seg_checkpoint, '9' * 12], f'input {"9" * 12}: expected an image'),
        ([seg_checkpoint, photos, '--out', broken], 'is not a folder'),
    ):
        options = [] if '--out' in arguments else ['--out', out]
        status = call('predict.py', SEG, *arguments, *options)
        assert words in error_of(status, capsys.readouterr().err), arguments
        assert not out.exists()


def test_a_damaged_one_among_others(
    call, seg_checkpoint, photos, tmp_path, capsys
):
    """Of a thousand photographs the others are looked at."""
    (photos / '1a.jpg').write_bytes(b'no image')
    Image.new('RGB', (1, 1)).save(photos / '1b.png')  # cannot be drawn
    out = tmp_path / 'out'
    status = call('predict.py', SEG, seg_checkpoint, photos, '--out', out)
    said = capsys.readouterr()
    assert status == 1
    assert f'3 images: {out}' in said.out
    assert 'left out: ' in said.err and '1a.jpg: expected an im' in said.err
    assert f'visualizer cannot draw {photos / "1b.png"}' in said.err
    assert 'could be read up to' not in said.err
    assert list(masks_of(out)) == ['0.png', '1.png', '2.png']


@pytest.mark.parametrize('name', ['clip.mp4', 'overlays/a.jpg', 'masks/a.png'])
def test_what_is_read_is_not_replaced(
    call, seg_checkpoint, tmp_path, capsys, name
):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == '.mp4':
        write_clip(path)
    else:
        Image.new('RGB', (40, 30)).save(path)
    before = path.read_bytes()
    options = '--out', tmp_path, '--device', 'cpu'
    status = call('predict.py', SEG, seg_checkpoint, path, *options)
    line = error_of(status, capsys.readouterr().err)
    assert '--out: expected a folder apart from the input' in line
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ('option', 'named'),
    [
        ('test_dataloader.dataset=1', 'test_dataloader.dataset cannot'),
        ('test_dataloader.dataset.metainfo=1', 'dataset.metainfo cannot'),
        ('test_dataloader.dataset.metainfo.classes=3', 'classes: expected a'),
        ('test_dataloader.dataset.pipeline.1.type=x', 'pipeline[1] cannot'),
        ('test_dataloader.dataset.pipeline.1.scale=1e9', 'pipeline fails on'),
        ('model=None', 'expected a model'),
        ('model.data_preprocessor.std=[0,0,0]', 'std.0: expected a number'),
        ('model.test_cfg=None', 'model fails on'),
    ],
)
def test_what_a_config_says_wrongly(
    call, seg_checkpoint, photos, tmp_path, capsys, option, named
):
    out = tmp_path / 'out'
    status = call(
        'predict.py', SEG, seg_checkpoint, photos, '--out', out, '--device',
        'cpu', '--cfg-options', option,
    )  # fmt: skip
    line = error_of(status, capsys.readouterr().err)
    assert f'config {SEG}: ' in line and named in line
    assert not out.exists()
