"""What a data set lists, looked at without opening a file."""

import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import ExifTags, Image

from mmrfa.datasets.checked_backend import reads_files
from mmrfa.datasets.inspection import look_at_coco, look_at_labels
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch.utils.data import Dataset

# Samples that are looked at; they take about a second.
LIMIT = 20_000
# Size of a file of COCO annotations that is read once more, in bytes: also
# about a second.
COCO_LIMIT = 64 << 20
# Images whose headers are read, about so many.
HEADERS = 500
# Of color_type: what leaves images as they are stored.
AS_STORED = 'ignore_orientation', 'unchanged'
# Orientations that exchange height and width.
_QUARTER_TURNS = 5, 6, 7, 8


def check_listed(config: 'Config', key: str, dataset: 'Dataset') -> None:
    """Make sure that files are there, boxes are numbers and ids are unique.

    Args:
        config (Config): of the run.
        key (str): of the loader.
        dataset (Dataset): built from it.

    Raises:
        InputError: the first sample that is not as it should be. Of large
            data sets, samples at equal distances are looked at, and of their
            COCO annotations the classes alone; the rest is left to
            ``tools/misc/check_data.py``.
    """
    begin = f'config {config.filename}: {key}.dataset: expected'
    files = reads_files(config[key])
    for part in _parts(dataset):
        size = len(part)
        for index in range(0, size, max(1, math.ceil(size / LIMIT))):
            info = part.get_data_info(index)
            for name in ('img_path', 'seg_map_path') if files else ():
                path = info.get(name)
                if isinstance(path, str) and not (
                    '://' in path or os.path.exists(path)
                ):
                    raise InputError(
                        f'{begin} all files that are listed, found none at '
                        f'{path}'
                    )
            for instance in info.get('instances') or ():
                box = instance.get('bbox', ())
                if not all(map(math.isfinite, box)):
                    raise InputError(
                        f'{begin} boxes of finite numbers, got {list(box)} of '
                        f'{info.get("img_path")}'
                    )
        for problem in _of_coco(part) if files else ():
            raise InputError(
                f'{begin} sound annotations, {part.ann_file}: {problem}'
            )


def turned_images(config: 'Config', key: str, dataset: 'Dataset') -> list[str]:
    """Find photographs that are turned away from under their boxes.

    OpenMMLab's loaders turn an image as its EXIF says. Where the annotations
    give the size as it is stored, the boxes are for that as well.

    Args:
        config (Config): of the run.
        key (str): of the loader.
        dataset (Dataset): built from it.

    Returns:
        list[str]: a line for the log, if there are any among some hundreds.
    """
    text = str(config[key])
    if not reads_files(config[key]) or any(name in text for name in AS_STORED):
        return []
    found = [
        info['img_path']
        for part in _parts(dataset)
        for index in range(0, len(part), max(1, len(part) // HEADERS))
        if _is_turned(info := part.get_data_info(index))
    ]
    if not found:
        return []
    return [
        f'{key}: EXIF turns {len(found)} images, {found[0]} ..., whose '
        'annotations are of the size as stored; their boxes are wrong unless '
        "LoadImageFromFile has color_type='color_ignore_orientation'"
    ]


def _is_turned(info: dict) -> bool:
    annotated = info.get('width'), info.get('height')
    if not info.get('instances') or annotated[0] == annotated[1]:
        return False
    try:
        with Image.open(info['img_path']) as file:
            turn = file.getexif().get(ExifTags.Base.Orientation, 1)
            return turn in _QUARTER_TURNS and file.size == annotated
    except Exception:  # Pillow raises whatever it meets; the run will tell
        return False


def _of_coco(part: 'Dataset') -> list[str]:
    """What its reader passes over, silently."""
    kind = getattr(getattr(part, 'COCOAPI', None), '__name__', None)
    if kind != 'COCO':
        return []
    classes = part.metainfo.get('classes') or ()
    labels = getattr(part, 'cat2label', {})
    small = os.path.getsize(part.ann_file) <= COCO_LIMIT
    problems = look_at_coco(part.ann_file) if small else []
    if not problems and (small or len(labels) < len(classes)):
        problems = look_at_labels(part.ann_file, classes, labels)
    return problems


def _parts(dataset: 'Dataset') -> Iterator['Dataset']:
    """What lies at the bottom of nested data sets, where it lists samples."""
    inner = getattr(dataset, 'datasets', None)
    if inner is None and hasattr(dataset, 'dataset'):
        inner = [dataset.dataset]
    for part in inner or ():
        yield from _parts(part)
    if not inner and hasattr(dataset, 'get_data_info'):
        yield dataset
