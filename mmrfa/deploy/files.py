"""Files that are whole or not there."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Give a place beside a file, whose content then takes its place.

    Args:
        target (Path): what is there stays until the ``with`` block ends
            well. Folders are made as needed.

    Yields:
        Path: of the same suffix; what is left there after an error is
        removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f'.{os.getpid()}.part.{target.name}')
    try:
        with _named(target):
            yield part
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """Give a folder beside a file, for one that is written as several.

    Args:
        target (Path): the main file.

    Yields:
        Path: an empty folder. What lies in it when the ``with`` block ends
        well is moved beside ``target``, replacing what has the same name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix='.part.', dir=target.parent) as name:
        folder = Path(name)
        with _named(target):
            yield folder
            for file in folder.iterdir():
                file.replace(target.parent / file.name)


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Name the file that a full disk, or a limit, has no room for."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = error.filename or str(target)
        raise
