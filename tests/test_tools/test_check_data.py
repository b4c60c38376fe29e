"""tools/misc/check_data.py names every file that is not as it should be."""

import json
import os
import re
import shutil
from functools import partial

import numpy as np
import pytest
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmrfa.datasets.inspection import (
    look_at_boxes,
    look_at_coco,
    look_at_image,
    look_at_labels,
    look_at_mask,
)

from .tool_calls import REPO, TINY_SEG, error_of, load_tool

VOC = 'VOCdevkit/VOC2012'
SPLITS = [f'{split}_dataloader.dataset.indices=6' for split in
          ('train', 'val', 'test')]  # fmt: skip


@pytest.fixture
def data(sample_root, tmp_path, monkeypatch):
    """A copy of the sample, to spoil."""
    shutil.copytree(sample_root / VOC, tmp_path / VOC)
    return tmp_path


def test_all_is_well(call, capsys) -> None:
    assert call('misc/check_data.py', TINY_SEG, '--cfg-options', *SPLITS) == 0
    out = capsys.readouterr().out
    assert 'train_dataloader: 6 images' in out
    assert 'suspicious: 0' in out
    shares = [line for line in out.splitlines() if '0 background' in line]
    assert 0.5 < float(shares[0].rpartition('(')[2].strip('%)')) / 100 < 1


@pytest.fixture
def bccd(data_root) -> str:
    """The folder of real data, looked for before ``call`` names another."""
    return str(data_root('bccd').parent)


def test_boxes_of_coco(bccd, call, capsys, monkeypatch) -> None:
    monkeypatch.setenv('MMRFA_DATA_ROOT', bccd)
    config = 'faster_rcnn/faster-rcnn_r18-rfa_fpn_1xb4-36e_bccd.py'
    file = REPO / 'configs' / config
    status = call('misc/check_data.py', file, '--cfg-options', *SPLITS)
    out = capsys.readouterr().out
    assert status == 0 and out.count('suspicious: 0') == 3
    cells = re.findall(r'RBC: (\d+)', out)
    assert len(cells) == 3 and min(map(int, cells)) > 20


def test_each_is_named(call, capsys, data, monkeypatch) -> None:
    images, masks = data / VOC / 'JPEGImages', data / VOC / 'SegmentationClass'
    names = sorted(p.stem for p in images.iterdir())[:6]
    first = images / f'{names[0]}.jpg'
    whole = first.read_bytes()
    middle = len(whole) // 2
    first.write_bytes(whole[:middle] + bytes(600) + whole[middle + 600 :])
    (images / f'{names[1]}.jpg').write_bytes(whole[:middle] + b'\xff\xd9')
    (images / f'{names[2]}.jpg').write_bytes(b'no image')
    mask = np.asarray(Image.open(masks / f'{names[3]}.png'))
    Image.fromarray(mask.astype(np.uint16) + 256).save(
        masks / f'{names[3]}.png'
    )
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(data))
    status = call(
        'misc/check_data.py', TINY_SEG, '--show-dir', data / 'seen',
        '--cfg-options', *SPLITS,
    )  # fmt: skip
    captured = capsys.readouterr()
    assert '4 files are suspicious' in error_of(status, captured.err)
    lines = captured.out.splitlines()
    for number, reason in enumerate(
        ['zero bytes', 'cut off', 'cannot be decoded', 'outside the 4 classes']
    ):
        (line,) = [s for s in lines if f'{names[number]}.jpg: ' in s]
        assert reason in line, line
    pictures = {p.stem for p in (data / 'seen').iterdir()}
    assert pictures == {names[i] for i in (0, 1, 3)}


def test_pictures_of_images_of_one_name(call, data, monkeypatch) -> None:
    """In one split, and in two."""
    listed = data / VOC / 'ImageSets/Segmentation/train.txt'
    name = listed.read_text().split()[0]
    for folder, suffix in (
        ('JPEGImages', 'jpg'),
        ('SegmentationClass', 'png'),
    ):
        file = data / VOC / folder / f'{name}.{suffix}'
        if suffix == 'png':
            Image.fromarray(np.full_like(Image.open(file), 9)).save(file)
        (file.parent / 'sub').mkdir()
        shutil.copy(file, file.parent / 'sub')
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(data))
    lines, splits = [name, f'sub/{name}'], ('train.txt', 'val.txt')
    for number, texts in enumerate((['\n'.join(lines), name], lines)):
        for split, text in zip(splits, texts):
            (listed.parent / split).write_text(text)
        seen = data / f'seen{number}'
        call('misc/check_data.py', TINY_SEG, '--show-dir', seen)
        found = [p.stem for p in seen.iterdir() if name in p.stem]
        assert len(found) == 2 and any(f'sub_{name}' in s for s in found)


def test_boxes_and_ids(tmp_path) -> None:
    box = dict(bbox_label=1, bbox=[1, 1, 5, 5])
    nan, inf = float('nan'), float('inf')
    for bad, reason in (
        ([1, 1, 5, 5], None), ([1, 1, nan, 5], 'finite'),
        ([1, 1, inf, 5], 'finite'), ([5, 1, 1, 5], 'empty'),
        ([1, 1, 1, 5], 'empty'), ([-9, 1, 5, 5], 'leaves'),
        ([1, 1, 5, 99], 'leaves'),
    ):  # fmt: skip
        labels, wrong = look_at_boxes([dict(box, bbox=bad)], (10, 10))
        assert labels == {1: 1}
        assert len(wrong) == (reason is not None)
        assert reason is None or reason in wrong[0]
    good = dict(
        images=[dict(id=1)],
        categories=[dict(id=3)],
        annotations=[dict(id=1, image_id=1, category_id=3)],
    )
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(good))
    assert look_at_coco(str(path)) == []
    to_test_on = {k: v for k, v in good.items() if k != 'annotations'}
    path.write_text(json.dumps(to_test_on))
    assert look_at_coco(str(path)) == []
    for key, value, reason in (
        ('images', good['images'] * 2, 'occur twice'),
        ('images', [], 'unknown image_id 1'),
        ('categories', [dict(id=2)], 'unknown category_id 3'),
        ('annotations', [dict(id=1)], 'unknown image_id None'),
        ('annotations', [dict()], 'no COCO annotations'),
        (
            'annotations',
            [dict(good['annotations'][0], bbox=[1, nan, 2, 3])],
            'a box that is none: [1, nan, 2, 3]',
        ),
        ('images', None, 'no COCO annotations'),
    ):
        path.write_text(json.dumps({**good, key: value}))
        assert reason in look_at_coco(str(path))[0]
    kinds = [dict(id=3, name='a'), dict(id=1, name='b'), dict(id=2, name='c')]
    path.write_text(json.dumps(dict(good, categories=kinds)))
    for classes, reason in (
        (('a', 'b', 'c'), None),
        (('a', 'c'), None),
        (('a', 'b', 'c', 'd'), None),  # no box of the last one
        (('a', 'b', 'C'), 'got none named C, and c'),
        (('b', 'a', 'c'), 'got label 0 for a'),
        (('B', 'a', 'b'), 'got label 0 for a'),
    ):
        # As CocoDataset numbers them.
        ids = [kind['id'] for kind in kinds if kind['name'] in classes]
        labels = {key: label for label, key in enumerate(ids)}
        found = look_at_labels(str(path), classes, labels)
        assert len(found) == (reason is not None)
        assert reason is None or reason in found[0]
    labels = {1: 0, 3: 1}  # of a reader that sorts them
    assert look_at_labels(str(path), ('b', 'a'), labels) == []


def test_labels_as_they_are_trained(tmp_path) -> None:
    """With the first number taken out, or classes chosen, as mmseg does."""
    path = tmp_path / 'a.png'
    numbers = np.uint8([[0, 1, 2, 3, 255, 255]])
    Image.fromarray(numbers).save(path)
    tool = load_tool('misc/check_data.py')
    for settings in (
        dict(reduce_zero_label=True, label_map=None),
        dict(reduce_zero_label=False, label_map={0: 255, 1: 1, 2: 0, 3: 255}),
        dict(reduce_zero_label=False, label_map=None),
    ):
        info = dict(settings, seg_map_path=str(path), seg_fields=[])
        trained = LoadAnnotations()(dict(info))['gt_seg_map']
        wanted = dict(zip(*np.unique(trained, return_counts=True)))
        pixels, wrong = look_at_mask(
            str(path), (1, 6), 4, trained_as=partial(tool.trained_as, info)
        )
        assert pixels == wanted and wrong == []


def test_flat_but_whole(tmp_path) -> None:
    """An image of one colour is no half image."""
    Image.new('RGB', (64, 64), 'white').save(tmp_path / 'a.png')
    assert look_at_image(str(tmp_path / 'a.png'))[1] == []


def test_a_mask_that_is_a_pipe(tmp_path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / 'pipe.png')
    counts, (wrong,) = look_at_mask(str(tmp_path / 'pipe.png'), None, 4)
    assert not counts and 'or a folder or pipe' in wrong


def test_wrong_options(call, capsys, data, monkeypatch) -> None:
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(data))
    images = data / VOC / 'JPEGImages'
    (name, *_), split = sorted(images.iterdir()), 'train_dataloader.dataset'
    listed = data / VOC / 'ImageSets/Segmentation/train.txt'
    listed.write_text(f'{name.stem}\n{name.stem}\n')  # is suspicious
    before = name.read_bytes()
    file = data / 'file'
    file.touch()
    for options, expected in (
        (['--show-dir', images], 'expected another file to write'),
        (['--show-dir', file], 'file is not a folder'),
        (['--cfg-options', 'train_dataloader=1'], 'train_dataloader cannot'),
        (['--cfg-options', f'{split}.data_prefix=1'], 'train_dataloader can'),
    ):
        status = call('misc/check_data.py', TINY_SEG, *options)
        assert expected in error_of(status, capsys.readouterr().err)
    assert name.read_bytes() == before
