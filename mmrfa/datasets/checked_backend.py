"""Image files read with a check."""

import os
import stat
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from mmengine.fileio import LocalBackend, get, register_backend
from PIL import Image, ImageFile, UnidentifiedImageError

from mmrfa.datasets.data_root import LOADERS
from mmrfa.errors import InputError

_END = {'JPEG': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}
# Words in what libjpeg says.
_OF_DECODER = 'JPEG', 'JFIF', 'progression'
# Steps that read images, and decoders of what Pillow knows as well.
_READERS = 'LoadImageFromFile', 'mmseg.LoadAnnotations'
_DECODERS = 'cv2', 'pillow', 'turbojpeg'


class CheckedBackend(LocalBackend):
    """File backend ``checked``: names the file that is not a whole image.

    The stock loaders either do not name it or read a truncated photograph
    as a half grey one. Use: ``dict(type='LoadImageFromFile',
    backend_args=dict(backend='checked'))``. A backend, not a loader of our
    own, because the inference tools of mmseg and mmdet look the stock loader
    up by its name.

    Args:
        strict (bool): decode each JPEG, as small as that goes, and stop at
            what the decoder warns of: holes, and halves that have an end.
            ``tools/misc/check_data.py`` once is cheaper than this in each
            epoch. Defaults to False.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict

    def get(self, filepath: str | Path) -> bytes:
        """Read an image file.

        Args:
            filepath (str | Path): JPEG, PNG or another format of Pillow.

        Returns:
            bytes: the content.

        Raises:
            InputError: no such file, not a whole image, or, if ``strict``,
                one that the decoder warns of.
        """
        if '://' in str(filepath):
            data = get(filepath)
        else:
            data = self._get_local(filepath)
        if not _is_whole(data):
            raise InputError(
                f'{filepath}: expected an image, got a damaged or truncated '
                f'file or another format ({len(data)} bytes)'
            )
        if self.strict and (warning := decoder_warning(data)):
            raise InputError(
                f'{filepath}: expected a whole image, the decoder says: '
                f'{warning}'
            )
        return data

    def _get_local(self, filepath: str | Path) -> bytes:
        try:
            if not stat.S_ISREG(os.stat(filepath).st_mode):
                raise InputError(
                    f'{filepath}: expected an image, got a folder, pipe or '
                    'device'
                )
            return super().get(filepath)
        except OSError as error:
            raise InputError(
                f'{filepath}: expected an image, got: {error.strerror}'
            ) from None


def check_images(config: dict) -> None:
    """Let a run read its images with the check, where it says nothing else.

    Args:
        config (dict): a whole config, changed in place.
    """
    masks = config.get('default_scope') == 'mmseg'

    def walk(node: object) -> None:
        if isinstance(node, list | tuple):
            for child in node:
                walk(child)
        if not isinstance(node, dict):
            return
        name = getattr(node.get('type'), '__name__', str(node.get('type')))
        if masks and name == 'LoadAnnotations':
            name = f'mmseg.{name}'
        if (
            name.endswith(_READERS)
            and node.get('imdecode_backend', 'cv2') in _DECODERS
            and node.get('backend_args') is None
            and node.get('file_client_args') is None
        ):
            node['backend_args'] = dict(backend='checked')
        for child in node.values():
            walk(child)

    for key in (*LOADERS, 'custom_hooks'):
        walk(config.get(key))


def reads_files(settings: object) -> bool:
    """Whether a loader reads images as files of this machine.

    Args:
        settings (object): of the loader, behind :func:`check_images`.

    Returns:
        bool: False where a config names another backend.
    """
    if isinstance(settings, dict):
        backend = settings.get('backend_args')
        if isinstance(backend, dict) and backend.get('backend') == 'checked':
            return True
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        return any(map(reads_files, settings))
    return False


def _is_whole(data: bytes) -> bool:
    """Whether Pillow decodes it, or else OpenCV what Pillow does not know."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # others may have set it
        with Image.open(BytesIO(data)) as image:
            end = _END.get(image.format)
            # Decoding in full is dear; a file with its end is whole.
            if end is None or not data.endswith(end):
                image.load()
        return True
    except UnidentifiedImageError:
        return _opencv_decodes(data)
    except Exception:  # Pillow raises whatever its decoders meet
        return False
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _opencv_decodes(data: bytes) -> bool:
    """Such as Radiance, and TIFF of three channels of 16 bits."""
    import cv2

    try:
        numbers = np.frombuffer(data, np.uint8)
        return cv2.imdecode(numbers, cv2.IMREAD_UNCHANGED) is not None
    except cv2.error:
        return False


def decoder_warning(data: bytes) -> str:
    """What the JPEG decoder says about a file that it decodes all the same.

    It says so on the stderr of the process alone, which is caught meanwhile;
    Pillow drops it.

    Args:
        data (bytes): of an image; others than JPEG are not decoded.

    Returns:
        str: empty where all is well.
    """
    if not data.startswith(b'\xff\xd8'):
        return ''
    import cv2

    before = os.dup(2)
    try:
        with TemporaryFile() as caught:
            os.dup2(caught.fileno(), 2)
            try:
                # An eighth of the pixels, of all that the file holds.
                cv2.imdecode(
                    np.frombuffer(data, np.uint8),
                    cv2.IMREAD_REDUCED_GRAYSCALE_8,
                )
            finally:
                os.dup2(before, 2)
            caught.seek(0)
            text = caught.read().decode(errors='replace')
            if not any(word in text for word in _OF_DECODER):
                sys.stderr.write(text)  # said by another thread, or a signal
                return ''
            return ' '.join(text.split())
    finally:
        os.close(before)


register_backend('checked', CheckedBackend)
