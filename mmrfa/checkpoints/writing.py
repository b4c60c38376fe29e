"""Writing files whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from mmrfa.errors import InputError

PART = '.part'
# What has no room: a full disk, a quota, a limit of the process.
FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


def check_target(source: str | Path, target: str | Path) -> None:
    """Make sure that a conversion may write where it is told to.

    Args:
        source (str | Path): file that is read.
        target (str | Path): file to write.

    Raises:
        InputError: both are one file, or the target is a folder, a pipe or
            a device, or below a file.
    """
    target = Path(target)
    if target.exists() and os.path.realpath(target) == os.path.realpath(
        source
    ):
        raise InputError(
            f'{target}: expected another file to write than the one to read, '
            'got the same'
        )
    if target.exists() and not target.is_file():
        kind = 'folder' if target.is_dir() else 'pipe or device'
        raise InputError(f'{target}: expected a file to write, got a {kind}')
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir():
        raise InputError(f'{target}: {parent} is not a folder')


def check_folder(folder: str | Path, name: str = '') -> None:
    """Make sure that files can be written into a folder.

    Args:
        folder (str | Path): need not be there yet.
        name (str): what it is, for the error message. Defaults to none.

    Raises:
        InputError: it, or what it would lie in, is no folder, or may not be
            written.
    """
    named = f'{name} {folder}'.strip()
    for part in (Path(folder), *Path(folder).absolute().parents):
        if part.is_symlink() and not part.exists():
            raise InputError(f'{named}: {part} is a dangling link')
        if part.exists():
            if not part.is_dir():
                raise InputError(f'{named}: {part} is not a folder')
            if not os.access(part, os.W_OK):
                raise InputError(f'{named}: cannot write to {part}')
            return


def save(content: dict, target: str | Path) -> None:
    """Write a checkpoint with :func:`write_whole`.

    Args:
        content (dict): tensors and plain values.
        target (str | Path): the file.
    """
    import torch

    data = BytesIO()
    torch.save(content, data)
    write_whole(data.getbuffer(), target)


def write_whole(data: bytes | memoryview, target: str | Path) -> None:
    """Write a file beside its place, sync it, then move it there.

    What is there stays until the new one is whole and on the disk. A process
    that is killed meanwhile leaves a file that ends in ``.part``: it must not
    be taken for a checkpoint.

    Args:
        data (bytes | memoryview): the content.
        target (str | Path): the file. Folders are made as needed.

    Raises:
        OSError: with the name of the file, also where the disk is full.
    """
    target = Path(target)
    part = target.with_name(f'.{target.name}.{os.getpid()}{PART}')
    try:
        with _replacing(target, part), part.open('wb') as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        _sync(target.parent)
    except OSError as error:
        error.filename = error.filename or str(target)
        raise


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
    part = target.with_name(f'.{os.getpid()}{PART}.{target.name}')
    with _replacing(target, part), _named(target):
        yield part


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
    with TemporaryDirectory(prefix=f'{PART}.', dir=target.parent) as name:
        folder = Path(name)
        with _named(target):
            yield folder
            for file in folder.iterdir():
                file.replace(target.parent / file.name)


@contextmanager
def _replacing(target: Path, part: Path) -> Iterator[None]:
    """Move a part to its place where the block ends well, else remove it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Name the file that a full disk, or a limit, has no room for."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            error.filename = error.filename or str(target)
        raise


def remove_parts(folder: str | Path) -> None:
    """Remove what killed processes left of :func:`write_whole`.

    Args:
        folder (str | Path): nobody else writes checkpoints to it.
    """
    for part in Path(folder).glob(f'.*{PART}'):
        part.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make the names of files in a folder last, where that is possible."""
    if os.name == 'posix':
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
