"""Check of a segmentation mask against its image and the classes."""

import os

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from PIL import ExifTags, Image

from mmrfa.errors import InputError


@TRANSFORMS.register_module()
class CheckMask(BaseTransform):
    """Stop at a mask that does not fit, instead of training on it.

    Stands right behind ``LoadAnnotations``, in training as in testing, and
    changes nothing. Without a mask it does nothing, so that tools which take
    ``LoadAnnotations`` out of a pipeline work.

    Args:
        num_classes (int): labels run from 0 to ``num_classes - 1``.
        ignore_index (int): one more label, without a class. Defaults to 255.

    Raises:
        InputError: the mask has several channels, more than 8 bits, another
            size than its image file, or a label outside the classes; or the
            image is one that a decoder turns, and the mask is not.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Return ``results`` as they are, or raise."""
        mask = results.get('gt_seg_map')
        if mask is None:
            return results
        path = results['seg_map_path']
        _check_bits(path)
        _check_turned(results.get('img_path'))
        if mask.ndim < 2:  # mmseg drops sides of one pixel
            raise InputError(
                f'{path}: expected the height and width of its image '
                f'{results["img_path"]}, {_size(results["ori_shape"])}, got '
                'a single row, column or pixel'
            )
        if mask.ndim != 2:
            raise InputError(
                f'{path}: expected a mask with one channel of class numbers '
                f'(palette or grey PNG), got {mask.shape[-1]} channels'
            )
        if mask.shape != tuple(results['ori_shape']):
            raise InputError(
                f'{path}: expected the height and width of its image '
                f'{results["img_path"]}, {_size(results["ori_shape"])}, got '
                f'{_size(mask.shape)}'
            )
        outside = mask[
            (mask >= self.num_classes) & (mask != self.ignore_index)
        ]
        if outside.size:
            raise InputError(
                f'{path}: expected labels 0 to {self.num_classes - 1} '
                f'({self.num_classes} classes) or {self.ignore_index} '
                f'(ignored), got {outside[0]}'
            )
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_classes={self.num_classes}, '
            f'ignore_index={self.ignore_index})'
        )


def _check_bits(path: str) -> None:
    """MMSegmentation keeps the last 8 bits of each number."""
    if not os.path.isfile(path):  # an address
        return
    with Image.open(path) as file:
        if file.mode[0] in 'IF' and np.max(file) > 255:
            raise InputError(
                f'{path}: expected class numbers of 8 bits, 0 to 255, got '
                f'{np.max(file)}'
            )


def _check_turned(path: str | None) -> None:
    """Photographs are turned as their EXIF data say; masks are not."""
    if path is None or not os.path.isfile(path):
        return
    with Image.open(path) as file:
        if file.format not in ('JPEG', 'MPO'):
            return
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation not in (0, 1):
        raise InputError(
            f'{path}: expected an image that is stored upright, as its mask '
            f'is, got EXIF orientation {orientation}; store it turned '
            '(for instance exiftran -a, jhead -autorot)'
        )


def _size(shape: tuple[int, int]) -> str:
    return f'{shape[0]}x{shape[1]}'
