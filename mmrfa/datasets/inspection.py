"""What can be wrong with images, masks and boxes, seen by decoding them."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

from mmrfa.datasets.checked_backend import decoder_warning

# A run of zeros in a JPEG, in bytes: a hole that a disk or a copy left.
_HOLE = bytes(512)


def look_at_image(path: str) -> tuple[np.ndarray | None, list[str]]:
    """Decode an image in full.

    Args:
        path (str): the file.

    Returns:
        tuple[np.ndarray | None, list[str]]: its RGB values, H x W x 3, None
        where there are none; and what is wrong with it.
    """
    problems = []
    try:
        if not Path(path).is_file():
            return None, ['no such file, or a folder or pipe']
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            problems.append('Pillow was told to accept truncated images')
        with Image.open(path) as file:
            kind = file.format
            pixels = np.asarray(file.convert('RGB'))
            orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # Pillow raises whatever its decoders meet
        return None, [f'cannot be decoded: {" ".join(str(error).split())}']
    if orientation not in (0, 1):
        problems.append(f'EXIF orientation {orientation}: decoders turn it')
    if kind == 'JPEG':
        data = Path(path).read_bytes()
        if warning := decoder_warning(data):
            problems.append(f'the decoder says: {warning}')
        if _HOLE in data:
            problems.append(
                f'{len(_HOLE)} zero bytes or more: zeroed in part?'
            )
    if _flat_tail(pixels):
        problems.append('the lower part has one colour: cut off?')
    return pixels, problems


def _flat_tail(pixels: np.ndarray) -> bool:
    """Whether the last eighth is one colour and what is above is not."""
    rows = len(pixels) // 8
    if rows < 8:
        return False
    flat = (pixels[-rows:] == pixels[-1, -1]).all()
    return bool(flat and (pixels[:-rows] != pixels[-1, -1]).any())


def look_at_mask(
    path: str,
    shape: tuple[int, int] | None,
    classes: int,
    ignored: int = 255,
    trained_as: Callable[[int], int] = int,
) -> tuple[Counter, list[str]]:
    """Decode a mask of class numbers.

    Args:
        path (str): the file.
        shape (tuple[int, int] | None): height and width of its image.
        classes (int): how many there are.
        ignored (int): the number that is no class. Defaults to 255.
        trained_as (Callable): what a number in the file becomes. Defaults to
            the number itself.

    Returns:
        tuple[Counter, list[str]]: pixels of each number; what is wrong.
    """
    try:
        if not Path(path).is_file():
            return Counter(), ['mask: no such file, or a folder or pipe']
        with Image.open(path) as file:
            numbers = np.asarray(file)
    except Exception as error:
        text = ' '.join(str(error).split())
        return Counter(), [f'mask cannot be decoded: {text}']
    if numbers.ndim != 2:
        return Counter(), [f'mask of {numbers.shape[-1]} channels']
    problems = []
    if shape is not None and numbers.shape != shape:
        problems.append(
            f'mask of {numbers.shape[0]}x{numbers.shape[1]}, image of '
            f'{shape[0]}x{shape[1]}'
        )
    found, counts = np.unique(numbers, return_counts=True)
    pixels = Counter()
    for number, count in zip(found.tolist(), counts.tolist()):
        pixels[trained_as(number)] += count
    outside = [n for n in pixels if not 0 <= n < classes and n != ignored]
    if outside:
        problems.append(f'labels outside the {classes} classes: {outside[:5]}')
    return pixels, problems


def look_at_boxes(
    instances: list[dict], shape: tuple[int, int] | None
) -> tuple[Counter, list[str]]:
    """Look at the boxes of an image.

    Args:
        instances (list[dict]): each with ``bbox`` (x1, y1, x2, y2, in
            pixels) and ``bbox_label``.
        shape (tuple[int, int] | None): height and width of the image.

    Returns:
        tuple[Counter, list[str]]: boxes of each class; what is wrong.
    """
    labels, problems = Counter(), []
    for instance in instances:
        labels[instance['bbox_label']] += 1
        box = list(map(float, instance['bbox']))
        if not all(map(math.isfinite, box)):
            problems.append(f'box {box} is not finite')
        elif box[2] <= box[0] or box[3] <= box[1]:
            problems.append(f'box {box} is empty')
        elif shape is not None and (
            min(box) < -1 or box[2] > shape[1] + 1 or box[3] > shape[0] + 1
        ):
            problems.append(f'box {box} leaves the {shape[0]}x{shape[1]}')
    return labels, problems


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number)


def look_at_coco(path: str) -> list[str]:
    """Look at the ids of a file of COCO annotations.

    Args:
        path (str): the file.

    Returns:
        list[str]: what is wrong with it.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        content.setdefault('annotations', [])  # images to test on have none
        parts = {
            name: [entry['id'] for entry in content[name]]
            for name in ('images', 'annotations', 'categories')
        }
        wanted = [
            (f'{name}_id', set(parts[part]), entry.get(f'{name}_id'))
            for name, part in (('image', 'images'), ('category', 'categories'))
            for entry in content['annotations']
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f'no COCO annotations: {type(error).__name__}: {error}']
    problems = []
    for name, ids in parts.items():
        twice = [key for key, count in Counter(ids).items() if count > 1]
        if twice:
            problems.append(f'{name}: ids that occur twice: {twice[:5]}')
    for entry in content['annotations']:
        box = entry.get('bbox', [])
        if not isinstance(box, list) or not all(map(_is_finite, box)):
            problems.append(f'annotations: a box that is none: {box!r:.60}')
    for name, known, found in wanted:
        if found not in known:
            problems.append(f'annotations: unknown {name} {found!r}')
    return problems


def look_at_labels(
    path: str, classes: Sequence[str], labels: dict[int, int]
) -> list[str]:
    """Compare the labels that mmdet makes of COCO's categories with classes.

    It leaves out the boxes of all categories whose name is no class, and
    numbers the others as they come in the file.

    Args:
        path (str): the file.
        classes (Sequence[str]): of the data set.
        labels (dict[int, int]): label by the id of a category, as read.

    Returns:
        list[str]: what is wrong.
    """
    categories = json.loads(Path(path).read_bytes())['categories']
    names = {entry['id']: entry.get('name') for entry in categories}
    for key, label in labels.items():
        if [*classes][label : label + 1] != [names.get(key)]:
            return [
                'categories: expected the order of the classes, got label '
                f'{label} for {names.get(key)}'
            ]
    others = [str(name) for name in names.values() if name not in classes]
    lacking = [name for name in classes if name not in names.values()]
    if lacking and others:
        return [
            f'categories: expected all classes, got none named {lacking[0]}, '
            f'and {", ".join(others)[:60]}'
        ]
    return []
