"""Writing a converted checkpoint whole or not at all."""

import os
from pathlib import Path

import torch

from mmrfa.errors import InputError


def check_target(source: str | Path, target: str | Path) -> None:
    """Make sure that a conversion may write where it is told to.

    Args:
        source (str | Path): file that is read.
        target (str | Path): file to write.

    Raises:
        InputError: both are one file, or the target is a folder or below a
            file.
    """
    target = Path(target)
    if target.exists() and os.path.realpath(target) == os.path.realpath(
        source
    ):
        raise InputError(
            f'{target}: expected another file to write than the one to read, '
            'got the same'
        )
    if target.is_dir():
        raise InputError(f'{target}: expected a file to write, got a folder')
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir():
        raise InputError(f'{target}: {parent} is not a folder')


def save(content: dict, target: str | Path) -> None:
    """Write a checkpoint beside its place, then move it there.

    Args:
        content (dict): tensors and plain values.
        target (str | Path): the file. What is there stays until the new one
            is whole. Folders are made as needed.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f'.{target.name}.{os.getpid()}.part')
    try:
        with part.open('wb') as stream:
            torch.save(content, stream)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
