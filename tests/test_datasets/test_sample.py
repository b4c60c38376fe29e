"""The generated data: repeatable, in the real layouts, in agreement."""

import filecmp
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mmrfa.datasets.sample import (
    CLASSES,
    COCO_CATEGORIES,
    COCO_ID,
    write_sample,
)
from mmrfa.errors import InputError

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / 'tools/dataset_converters/make_sample.py'


def files_below(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob('*')
        if path.is_file()
    )


def names(root: Path, split: str) -> list[str]:
    file = root / f'VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt'
    return file.read_text().split()


def mask(root: Path, name: str, folder: str = 'SegmentationClass'):
    image = Image.open(root / f'VOCdevkit/VOC2012/{folder}/{name}.png')
    assert image.mode == 'P'
    return np.asarray(image)


def test_same_seed_same_files_other_seed_others(tmp_path):
    for name, seed in ('a', 3), ('b', 3), ('c', 4):
        write_sample(tmp_path / name, 3, 2, seed=seed)
    listed = files_below(tmp_path / 'a')
    assert len(listed) == 5 + 2 * 5 + 3 + 5 + 2
    same, _, _ = filecmp.cmpfiles(
        tmp_path / 'a', tmp_path / 'b', listed, shallow=False
    )
    assert same == listed
    _, differ, errors = filecmp.cmpfiles(
        tmp_path / 'a', tmp_path / 'c', listed, shallow=False
    )
    assert not errors
    assert [f for f in differ if f.endswith('.jpg')] == [
        f for f in listed if f.endswith('.jpg')
    ]


def test_lists_images_and_masks_agree(sample_root):
    voc = sample_root / 'VOCdevkit/VOC2012'
    train, val = names(sample_root, 'train'), names(sample_root, 'val')
    assert (len(train), len(val)) == (160, 40)
    assert not set(train) & set(val)
    assert names(sample_root, 'aug') == train
    seen = set()
    for name in train + val:
        truth = mask(sample_root, name)
        photo = Image.open(voc / f'JPEGImages/{name}.jpg')
        assert photo.size == (96, 96) and photo.mode == 'RGB'
        assert truth.shape == (96, 96)
        aug = mask(sample_root, name, 'SegmentationClassAug')
        assert (aug == truth).all()
        seen |= set(np.unique(truth))
    assert seen == set(range(len(CLASSES)))


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_regions_make_up_the_masks(sample_root, split):
    """The two descriptions are of the same objects, pixel by pixel."""
    coco = COCO(
        str(sample_root / f'coco/annotations/instances_{split}2017.json')
    )
    label_of = {v: k for k, v in COCO_ID.items()}
    listed = names(sample_root, split)
    assert [
        Path(i['file_name']).stem for i in coco.dataset['images']
    ] == listed
    for info in coco.dataset['images']:
        name = Path(info['file_name'])
        ours = sample_root / f'coco/{split}2017' / name
        voc = sample_root / 'VOCdevkit/VOC2012/JPEGImages' / name
        assert ours.read_bytes() == voc.read_bytes()
        truth = np.zeros((info['height'], info['width']), np.uint8)
        annotations = coco.loadAnns(coco.getAnnIds(info['id']))
        assert annotations
        for annotation in annotations:
            region = coco.annToMask(annotation).astype(bool)
            assert not truth[region].any(), 'objects overlap'
            truth[region] = label_of[annotation['category_id']]
            ys, xs = np.nonzero(region)
            x, y, w, h = annotation['bbox']
            assert (xs.min(), ys.min()) == (x, y)
            assert (xs.max() + 1, ys.max() + 1) == (x + w, y + h)
            assert annotation['area'] == region.sum() > 0
        assert (truth == mask(sample_root, name.stem)).all()


def test_categories_are_cocos_own():
    assert len(COCO_CATEGORIES) == 80
    assert [COCO_CATEGORIES[COCO_ID[k]] for k in (1, 2, 3)] == [
        'sports ball',
        'book',
        'kite',
    ]
    if importlib.util.find_spec('mmcv._ext') is None:
        pytest.skip('mmdet needs the compiled mmcv operators')
    from mmdet.datasets import CocoDataset

    assert tuple(COCO_CATEGORIES.values()) == CocoDataset.METAINFO['classes']


def test_replaces_its_own_folders_only(tmp_path):
    kept = tmp_path / 'VOCdevkit/VOC2007/note.txt'
    kept.parent.mkdir(parents=True)
    kept.write_text('mine')
    write_sample(tmp_path, 4, 1)
    write_sample(tmp_path, 2, 1)
    assert kept.read_text() == 'mine'
    assert len(names(tmp_path, 'train')) == 2
    assert len(list((tmp_path / 'coco/train2017').iterdir())) == 2
    assert not list(tmp_path.glob('.sample-*'))


@pytest.mark.parametrize('part', ['VOCdevkit/VOC2012/JPEGImages', 'coco/a'])
def test_real_data_in_its_place_are_kept(tmp_path, part):
    real = tmp_path / part / '2007_000027.jpg'
    real.parent.mkdir(parents=True)
    real.touch()
    with pytest.raises(InputError, match='got images of others .2007_000027'):
        write_sample(tmp_path, 1, 1)
    assert real.exists()
    with pytest.raises(InputError, match='data root .* is not a folder'):
        write_sample(real, 1, 1)


def test_colours_do_not_give_the_class_away_alone(sample_root):
    """Objects and background overlap in colour: there is a task to learn."""
    voc = sample_root / 'VOCdevkit/VOC2012/JPEGImages'
    background, ball = [], []
    for name in names(sample_root, 'val'):
        photo = np.asarray(Image.open(voc / f'{name}.jpg')).astype(float)
        truth = mask(sample_root, name)
        redness = photo[..., 0] - photo[..., 2]
        background.append(redness[truth == 0])
        ball.append(redness[truth == 1])
    background, ball = np.concatenate(background), np.concatenate(ball)
    cut = np.linspace(-200, 200, 101)
    errors = [(ball < c).mean() + (background >= c).mean() for c in cut]
    assert 0.02 < min(errors) < 0.6


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--num-val', '0'], 'at least 1 training and 1 validation image'),
        (['--size', '8'], 'at least 32 pixels, got 8'),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, capsys, arguments, said):
    write_sample(tmp_path, 1, 1)
    before = files_below(tmp_path)
    spec = importlib.util.spec_from_file_location('make_sample', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    status = tool.run_tool(lambda: tool.main([str(tmp_path), *arguments]))
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and said in line
    assert files_below(tmp_path) == before
