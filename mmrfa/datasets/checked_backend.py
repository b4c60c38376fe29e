"""Image files read with a check."""

import os
import stat
from io import BytesIO
from pathlib import Path

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
    """

    def get(self, filepath: str | Path) -> bytes:
        """Read an image file.

        Args:
            filepath (str | Path): JPEG, PNG or another format of Pillow.

        Returns:
            bytes: the content.

        Raises:
            InputError: no such file, or not a whole image.
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
        return data


register_backend('checked', CheckedBackend)
