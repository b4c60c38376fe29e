"""Image files read with a check."""

import os
import stat
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from mmengine.fileio import LocalBackend, register_backend
from PIL import Image

from mmrfa.errors import InputError

_END = {'JPEG': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}


class CheckedBackend(LocalBackend):
    """File backend ``checked``: names the file that is not a whole image.

    The stock loaders either do not name it or read a truncated photograph
    as a half grey one. Use: ``dict(type='LoadImageFromFile',
    backend_args=dict(backend='checked'))``. A backend, not a loader of our
    own, because the inference tools of mmseg and mmdet look the stock loader
    up by its name.

    Args:
        strict (bool): decode each JPEG in full and stop at what the decoder
            warns of: holes, and halves that have an end. Twice the decoding,
            so ``tools/misc/check_data.py`` once is cheaper than this in each
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
        try:
            if not stat.S_ISREG(os.stat(filepath).st_mode):
                raise InputError(
                    f'{filepath}: expected an image, got a folder, pipe or '
                    'device'
                )
            data = super().get(filepath)
        except OSError as error:
            raise InputError(
                f'{filepath}: expected an image, got: {error.strerror}'
            ) from None
        try:
            with Image.open(BytesIO(data)) as image:
                end = _END.get(image.format)
                # Decoding in full is dear; a file with its end is whole.
                if end is None or not data.endswith(end):
                    image.load()
        except Exception:  # Pillow raises whatever its decoders meet
            raise InputError(
                f'{filepath}: expected an image, got a damaged or truncated '
                f'file or another format ({len(data)} bytes)'
            ) from None
        if self.strict and (warning := decoder_warning(data)):
            raise InputError(
                f'{filepath}: expected a whole image, the decoder says: '
                f'{warning}'
            )
        return data


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
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            finally:
                os.dup2(before, 2)
            caught.seek(0)
            return ' '.join(caught.read().decode(errors='replace').split())
    finally:
        os.close(before)


register_backend('checked', CheckedBackend)
