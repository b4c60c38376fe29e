"""The two formats of torch.save: a zip archive, and one before it.

Sizes are compared with the file before anything of that size is made.
"""

import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import torch

from mmrfa.checkpoints.unpickling import Malformed, Storage, Unpickler

# What the older format starts with, each a pickle.
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
Location = str | torch.device | dict | Callable | None


def read_checkpoint(file: BinaryIO, map_location: Location = 'cpu') -> object:
    """Read what torch.save wrote.

    Args:
        file (BinaryIO): the whole file, at its start.
        map_location (str | device | dict | Callable | None): where storages
            go, as in ``torch.load``; None stands for the CPU.

    Returns:
        object: what was saved.

    Raises:
        UnpicklingError: see :mod:`mmrfa.checkpoints.unpickling`.
        Exception: of any kind, where the file is none of these.
    """
    if zipfile.is_zipfile(file):
        file.seek(0)
        return _Archive(file, map_location).read()
    file.seek(0)
    if file.read(2) == b'PK':
        raise Malformed('an archive without its end')
    file.seek(0)
    return _Older(file, map_location).read()


def read_outline(file: BinaryIO) -> object:
    """Read what torch.save wrote, without the numbers in its tensors.

    Args:
        file (BinaryIO): the whole file, at its start.

    Returns:
        object: what was saved, its tensors on the device ``meta``; None for
        the format before torch 1.6, where they are in the way.

    Raises:
        Exception: as :func:`read_checkpoint`; numbers are not looked at.
    """
    if zipfile.is_zipfile(file):
        file.seek(0)
        return _Outline(file, 'cpu').read()
    file.seek(0)
    if file.read(1) != b'\x80':  # what a pickle starts with
        raise Malformed('neither an archive nor a pickle')
    return None


def read_pickle(path: str | Path) -> object:
    """Read a file of Python's pickle, of tensors and plain values.

    Args:
        path (str | Path): the file.

    Returns:
        object: what was pickled.

    Raises:
        UnpicklingError: see :mod:`mmrfa.checkpoints.unpickling`.
    """
    with open(path, 'rb') as file:
        return Unpickler(file, read_blob=_read_blob).read()


def _read_blob(data: bytes) -> object:
    """A storage as plain pickles hold it: a file of its own."""
    return _Older(BytesIO(data), 'cpu').read()


class _Storages:
    """What a file holds beside its pickle, by key."""

    def __init__(self, file: BinaryIO, map_location: Location) -> None:
        self.file, self.map_location = file, map_location
        self.size = file.seek(0, 2)
        file.seek(0)
        self.found: dict[str, Storage] = {}

    def find(self, pid: object) -> Storage:
        kind, dtype, key, location, count, *view = pid
        if kind != 'storage' or any(view):
            raise Malformed('a reference to what is no storage')
        if not isinstance(dtype, torch.dtype) or type(count) is not int:
            raise Malformed('a storage of what is no numbers')
        if not isinstance(key, str):
            raise Malformed('a storage without a name')
        if key not in self.found:
            size = count * torch.empty(0, dtype=dtype).element_size()
            if not 0 <= size <= self.size:
                raise Malformed('a storage larger than the file')
            data = self.read_storage(key, size)
            self.found[key] = Storage(self._move(data, location), dtype)
        return Storage(self.found[key].data, dtype)

    def read_storage(self, key: str, size: int) -> torch.UntypedStorage:
        raise NotImplementedError

    def _move(self, data: torch.UntypedStorage, location: str):
        place = self.map_location
        if callable(place):
            found = place(data, location)
            return data if found is None else found
        if isinstance(place, dict):
            place = place.get(location, 'cpu')
        place = torch.device(place or 'cpu')
        if place.type == 'cpu':
            return data
        return torch.UntypedStorage(data.nbytes(), device=place).copy_(data)


class _Archive(_Storages):
    """The format since torch 1.6."""

    def read(self) -> object:
        with zipfile.ZipFile(self.file) as self.archive:
            entries = self.archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise Malformed('compressed data')
            # Entries that share their bytes would be more than the file.
            if sum(e.file_size for e in entries) > self.size:
                raise Malformed('more data than the file holds')
            self.names = {e.filename.partition('/')[2] for e in entries}
            self.root = entries[0].filename.partition('/')[0]
            order = self._entry('byteorder', b'little')
            if order.decode() != sys.byteorder:
                raise Malformed(f'numbers in the order {order!r:.40}')
            pickle = BytesIO(self._entry('data.pkl'))
            return Unpickler(pickle, self.find).read()

    def read_storage(self, key: str, size: int) -> torch.UntypedStorage:
        data = self._entry(f'data/{key}')
        if len(data) != size:
            raise Malformed('a storage of another size')
        return _storage(bytearray(data))

    def _entry(self, name: str, default: bytes | None = None) -> bytes:
        if default is not None and name not in self.names:
            return default
        return self.archive.read(f'{self.root}/{name}')  # checks the CRC


class _Outline(_Archive):
    """The same, each storage as large and without numbers."""

    def read_storage(self, key: str, size: int) -> torch.UntypedStorage:
        return torch.UntypedStorage(size, device='meta')


class _Older(_Storages):
    """The format before 1.6: pickles, then the bytes of the storages."""

    def read(self) -> object:
        for expected in _MAGIC, _VERSION:
            if Unpickler(self.file).read() != expected:
                raise Malformed('another start than that of torch.save')
        info = Unpickler(self.file).read()
        if info['little_endian'] != (sys.byteorder == 'little'):
            raise Malformed('numbers in another order')
        self.waiting = 0
        content = Unpickler(self.file, self.find).read()
        keys = Unpickler(self.file).read()
        if sorted(keys) != sorted(self.found):
            raise Malformed('other storages than those it names')
        for key in keys:
            self._fill(self.found[key].data)
        return content

    def read_storage(self, key: str, size: int) -> torch.UntypedStorage:
        self.waiting += size
        if self.waiting > self.size:
            raise Malformed('more data than the file holds')
        return _storage(bytearray(size))

    def _fill(self, storage: torch.UntypedStorage) -> None:
        # The number of elements stands there, of a size known already.
        self.file.read(8)
        data = self.file.read(storage.nbytes())
        if len(data) != storage.nbytes():
            raise Malformed('a truncated storage')
        storage.copy_(_storage(bytearray(data)))


def _storage(data: bytearray) -> torch.UntypedStorage:
    if not data:
        return torch.UntypedStorage(0)
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
