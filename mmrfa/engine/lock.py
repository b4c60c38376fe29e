"""One run at a time writes to a work dir."""

import os
from pathlib import Path

from mmrfa.errors import InputError

NAME = '.lock'
_held: dict[str, int] = {}


def lock_work_dir(folder: str) -> None:
    """Claim a work dir until this process ends, however it ends.

    A lock of the whole process, by POSIX: the workers of a data loader do
    not inherit it, so that it is gone with the run and not with the last of
    them. Where there are none, nothing is locked.

    Args:
        folder (str): made as needed.

    Raises:
        InputError: another process has it.
    """
    try:
        import fcntl
    except ImportError:
        return
    path = Path(folder).resolve() / NAME
    if str(path) in _held:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(handle, 20).decode(errors='replace').strip()
        os.close(handle)
        raise InputError(
            f'work dir {folder}: expected none but this run to write to it, '
            f'got another one (process {owner}); wait for it, or use another '
            '--work-dir'
        ) from None
    except OSError:  # a file system without locks
        os.close(handle)
        return
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    _held[str(path)] = handle
