"""Where images come from: files, folders, patterns, videos, cameras."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmrfa.errors import InputError

if TYPE_CHECKING:
    import numpy as np

# One line, ours, is enough for a file or a camera that gives nothing. OpenCV
# reads this when it first opens a video.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')

NAMINGS = (
    lambda path: path.stem,
    lambda path: path.name,
    lambda path: '_'.join(path.parts).replace('/', '').lstrip('_'),
)
IMAGES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


def names_of(files: list[Path]) -> list[str]:
    """Give each file the shortest name that no other one could have.

    Of a.jpg and a.png neither may take the other's place.

    Args:
        files (list[Path]): none twice.
    """
    wanted = [[naming(path) for naming in NAMINGS] for path in files]
    counts = Counter(name for names in wanted for name in set(names))
    found = []
    for names in wanted:
        own = (name for name in names if counts[name] == 1)
        numbered = (f'{names[-1]}_{number}' for number in count(1))
        unused = (name for name in numbered if not counts[name])
        found.append(next(chain(own, unused)))
        counts[found[-1]] = 1
    return found


class Frame(NamedTuple):
    """One image to look at.

    Attributes:
        name (str): of what is made of it, without a suffix.
        file (str): the image file; of a frame of a video, its name.
        pixels (ndarray | None): (H, W, 3) uint8, BGR, of a video. None: to
            be read from ``file``.
    """

    name: str
    file: str
    pixels: 'np.ndarray | None' = None


class Source:
    """The images that a text names; iterating gives a :class:`Frame` each.

    Args:
        text (str): an image or a video file, a folder (the images right in
            it), a pattern such as ``'photos/**/*.jpg'``, or the index of a
            camera.
        limit (int | None): how many images at most. Defaults to all.

    Attributes:
        count (int | None): how many there will be, where that is known.
        video (str | None): name of the video or camera, if it is one.
        rate (float): frames per second, of a video.
        files (list[Path]): what is read, nothing of a camera.

    Raises:
        InputError: nothing there, no image in it, or no video that OpenCV
            can read.
    """

    def __init__(self, text: str, limit: int | None = None) -> None:
        self.text, self.limit = text, limit
        self.video, self.rate = None, 25.0
        self.files: list[Path] = []
        path = Path(text)
        if text.isdecimal() and len(text) < 5 and not path.exists():
            self._open(int(text), f'camera_{text}')
        elif path.is_dir():
            # Hidden ones are what a killed run, or another system, left.
            self.files = _images_of(path.glob('[!.]*'))
            if not self.files:
                raise InputError(
                    f'input {text}: expected images ({", ".join(IMAGES)}) in '
                    'this folder, found none'
                )
        elif path.is_file():
            if path.suffix.lower() in IMAGES:
                self.files = [path]
            else:
                self._open(text, path.stem)
                self.files = [path]
        else:
            found = glob.glob(text, recursive=True)
            self.files = _images_of(map(Path, found))
            if not self.files:
                raise InputError(
                    f'input {text}: expected an image, a folder, a pattern '
                    'that images fit, a video or the index of a camera, found '
                    'none'
                )
        if self.video is None:
            self.count = len(self.files)
        if limit is not None and self.count is not None:
            self.count = min(limit, self.count)

    def _open(self, place: int | str, name: str) -> None:
        import cv2

        level = cv2.getLogLevel()
        cv2.setLogLevel(0)
        self._stream = cv2.VideoCapture(place)
        # A file of another kind may open, and give nothing.
        self._first = self._stream.read()[1]
        cv2.setLogLevel(level)
        if self._first is None:
            camera = isinstance(place, int)
            what = 'a camera' if camera else 'an image or a video'
            raise InputError(
                f'input {place}: expected {what} that OpenCV can read, got '
                'no image from it'
            )
        self.video = name
        self.rate = self._stream.get(cv2.CAP_PROP_FPS) or self.rate
        frames = int(self._stream.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = frames if frames > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        every = self._images() if self.video is None else self._frames()
        return islice(every, self.limit and min(self.limit, sys.maxsize))

    def _images(self) -> Iterator[Frame]:
        for name, path in zip(names_of(self.files), self.files):
            yield Frame(name, str(path))

    def _frames(self) -> Iterator[Frame]:
        pixels, number = self._first, 0
        while pixels is not None:
            name = f'{self.video}_{number:06}'
            yield Frame(name, name, pixels)
            pixels, number = self._stream.read()[1], number + 1
        self._stream.release()


def _images_of(paths) -> list[Path]:
    found = (path for path in paths if path.suffix.lower() in IMAGES)
    return sorted(path for path in found if path.is_file())
