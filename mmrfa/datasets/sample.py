"""A small generated data set, so that demo and tests need no download.

Balls, books and kites of class-related colours lie on textured backgrounds.
The same images are described twice: as PASCAL VOC segmentation masks and as
COCO detection JSON, each in the folder layout of the real data set.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mmrfa.checkpoints.writing import check_folder
from mmrfa.errors import InputError

CLASSES = ('background', 'ball', 'book', 'kite')
PALETTE = ((0, 0, 0), (230, 60, 60), (60, 90, 230), (240, 200, 40))

# COCO's own categories (the ids have gaps), so that an ordinary 80-class
# configuration trains on the sample as it is.
COCO_CATEGORIES = {
    1: 'person', 2: 'bicycle', 3: 'car', 4: 'motorcycle', 5: 'airplane',
    6: 'bus', 7: 'train', 8: 'truck', 9: 'boat', 10: 'traffic light',
    11: 'fire hydrant', 13: 'stop sign', 14: 'parking meter', 15: 'bench',
    16: 'bird', 17: 'cat', 18: 'dog', 19: 'horse', 20: 'sheep', 21: 'cow',
    22: 'elephant', 23: 'bear', 24: 'zebra', 25: 'giraffe', 27: 'backpack',
    28: 'umbrella', 31: 'handbag', 32: 'tie', 33: 'suitcase', 34: 'frisbee',
    35: 'skis', 36: 'snowboard', 37: 'sports ball', 38: 'kite',
    39: 'baseball bat', 40: 'baseball glove', 41: 'skateboard',
    42: 'surfboard', 43: 'tennis racket', 44: 'bottle', 46: 'wine glass',
    47: 'cup', 48: 'fork', 49: 'knife', 50: 'spoon', 51: 'bowl',
    52: 'banana', 53: 'apple', 54: 'sandwich', 55: 'orange', 56: 'broccoli',
    57: 'carrot', 58: 'hot dog', 59: 'pizza', 60: 'donut', 61: 'cake',
    62: 'chair', 63: 'couch', 64: 'potted plant', 65: 'bed',
    67: 'dining table', 70: 'toilet', 72: 'tv', 73: 'laptop', 74: 'mouse',
    75: 'remote', 76: 'keyboard', 77: 'cell phone', 78: 'microwave',
    79: 'oven', 80: 'toaster', 81: 'sink', 82: 'refrigerator', 84: 'book',
    85: 'clock', 86: 'vase', 87: 'scissors', 88: 'teddy bear',
    89: 'hair drier', 90: 'toothbrush',
}  # fmt: skip
PARTS = 'VOCdevkit/VOC2012', 'coco'  # of the data root
COCO_ID = {1: 37, 2: 84, 3: 38}  # mask label -> COCO category

# Mean colour of each class; every object strays from it by its own amount.
_COLOURS = {1: (205, 70, 60), 2: (60, 85, 195), 3: (215, 180, 60)}
_MIN_PIXELS = 40  # an object hidden further than this is not annotated


def write_sample(
    out: str | os.PathLike,
    num_train: int = 160,
    num_val: int = 40,
    size: int = 96,
    seed: int = 0,
) -> Path:
    """Write the sample as a data root; the same arguments give the same files.

    Args:
        out (str | PathLike): Data root; ``VOCdevkit/VOC2012`` and ``coco``
            below it are replaced, all else is left alone.
        num_train (int): Training images. Defaults to 160.
        num_val (int): Validation images. Defaults to 40.
        size (int): Height and width, in pixels, 32 or more. Defaults to 96.
        seed (int): Seed of all randomness. Defaults to 0.

    Returns:
        Path: ``out``. Set ``MMRFA_DATA_ROOT`` to it and the VOC and COCO
        configurations run on the sample.

    Raises:
        InputError: A count below 1, a size below 32, no place for a folder, or
            images in the place of the sample that are not of one.
    """
    if num_train < 1 or num_val < 1:
        raise InputError(
            'the sample needs at least 1 training and 1 validation image, '
            f'got {num_train} and {num_val}'
        )
    if size < 32:
        raise InputError(f'sample images are at least 32 pixels, got {size}')
    out = Path(out)
    check_folder(out, 'data root')
    for part in PARTS:
        _check_replaceable(out / part)
    out.mkdir(parents=True, exist_ok=True)
    # Written aside and then moved: a run cut short leaves no half data set.
    with tempfile.TemporaryDirectory(dir=out, prefix='.sample-') as scratch:
        scratch = Path(scratch)
        rng = np.random.default_rng(seed)
        ids = {'train': range(num_train)}
        ids['val'] = range(num_train, num_train + num_val)
        for split, numbers in ids.items():
            scenes = {i: draw_scene(rng, size) for i in numbers}
            _write_voc(scratch / 'VOCdevkit/VOC2012', split, scenes)
            _write_coco(scratch / 'coco', split, scenes)
        for part in PARTS:
            shutil.rmtree(out / part, ignore_errors=True)
            (out / part).parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch / part, out / part)
    return out


def _check_replaceable(folder: Path) -> None:
    """The real data have the same place; they take days to fetch again."""
    for path in folder.rglob('*.jpg'):
        if not path.name.startswith('sample_'):
            raise InputError(
                f'{folder}: expected nothing, or an earlier sample to '
                f'replace, got images of others ({path.name}); write the '
                'sample elsewhere'
            )


def draw_scene(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one image.

    Args:
        rng (Generator): Source of randomness.
        size (int): Height and width, in pixels.

    Returns:
        tuple: The image (uint8, H x W x 3, RGB) and its objects, each a
        label of ``CLASSES`` with the boolean H x W mask of what is seen of
        it; the masks do not overlap.
    """
    image = rng.uniform(80, 170, 3) + _texture(rng, size, 40, colours=3)
    objects: list[tuple[int, np.ndarray]] = []
    for _ in range(rng.integers(2, 5)):
        label = int(rng.integers(1, len(CLASSES)))
        inside = _shape(rng, label, size)
        colour = np.add(_COLOURS[label], rng.normal(0, 18, 3))
        surface = colour * rng.uniform(0.75, 1.15)
        surface = surface + _texture(rng, size, 20, colours=1)
        image = np.where(inside[..., None], surface, image)
        objects = [(other, seen & ~inside) for other, seen in objects]
        objects.append((label, inside))
    image = image + rng.normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), objects


def _texture(
    rng: np.random.Generator, size: int, strength: float, colours: int
) -> np.ndarray:
    """Sum of smooth noises, coarse to fine: (size, size, colours)."""
    total = np.zeros((size, size, colours))
    for cells in (3, 8, 24):
        for c in range(colours):
            grid = rng.normal(0, 1, (cells, cells)).astype(np.float32)
            noise = Image.fromarray(grid).resize((size, size), Image.BILINEAR)
            total[..., c] += np.asarray(noise)
    return total * strength / 3


def _shape(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """Boolean mask of a ball, book or kite, turned and placed at random."""
    radius = rng.uniform(0.15, 0.28) * size
    cx, cy = rng.uniform(0.15, 0.85, 2) * size
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size] + 0.5
    u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    if label == 1:
        return u**2 + v**2 <= radius**2
    if label == 2:
        return (np.abs(u) <= radius) & (np.abs(v) <= 0.7 * radius)
    # A kite's tail side is longer than its nose.
    length = np.where(u > 0, 1.6, 0.8) * radius
    return np.abs(u) / length + np.abs(v) / (0.8 * radius) <= 1


def _annotated(
    objects: list[tuple[int, np.ndarray]],
) -> Iterator[tuple[int, np.ndarray]]:
    return ((k, seen) for k, seen in objects if seen.sum() >= _MIN_PIXELS)


def _write_voc(root: Path, split: str, scenes: dict) -> None:
    folders = 'JPEGImages', 'SegmentationClass', 'SegmentationClassAug'
    for folder in (*folders, 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    palette = [value for colour in PALETTE for value in colour]
    for i, (image, objects) in scenes.items():
        name = f'sample_{i:06d}'
        Image.fromarray(image).save(
            root / 'JPEGImages' / f'{name}.jpg', quality=95
        )
        labels = np.zeros(image.shape[:2], np.uint8)
        for label, seen in _annotated(objects):
            labels[seen] = label
        mask = Image.fromarray(labels)
        mask.putpalette(palette)
        for folder in folders[1:]:
            mask.save(root / folder / f'{name}.png')
    names = ''.join(f'sample_{i:06d}\n' for i in scenes)
    # The augmented VOC list holds further training images; here, the same.
    for listed in ('train', 'aug') if split == 'train' else (split,):
        file = root / 'ImageSets/Segmentation' / f'{listed}.txt'
        file.write_text(names)


def _write_coco(root: Path, split: str, scenes: dict) -> None:
    folder = root / f'{split}2017'
    folder.mkdir(parents=True)
    (root / 'annotations').mkdir(exist_ok=True)
    images, annotations = [], []
    for i, (image, objects) in scenes.items():
        name = f'sample_{i:06d}.jpg'
        Image.fromarray(image).save(folder / name, quality=95)
        height, width = image.shape[:2]
        images.append(dict(id=i, file_name=name, height=height, width=width))
        for label, seen in _annotated(objects):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=i,
                    category_id=COCO_ID[label],
                    iscrowd=0,
                    **_region(seen),
                )
            )
    content = dict(
        info=dict(description='mmrfa sample'),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[dict(id=k, name=v) for k, v in COCO_CATEGORIES.items()],
    )
    file = root / 'annotations' / f'instances_{split}2017.json'
    file.write_text(json.dumps(content))


def _region(seen: np.ndarray) -> dict:
    """COCO's box (x, y, width, height), area and run lengths, in pixels."""
    ys, xs = np.nonzero(seen)
    x, y = int(xs.min()), int(ys.min())
    # COCO counts down the columns, and begins with the pixels outside.
    flat = np.concatenate([[False], seen.ravel(order='F')])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [seen.size]]))
    return dict(
        bbox=[x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1],
        area=int(seen.sum()),
        segmentation=dict(size=list(seen.shape), counts=counts.tolist()),
    )
