"""What the build of the kernels and their loader have to agree on.

``setup.py`` runs this file alone, so it imports nothing but Python's library.
"""

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent
PREFIX = '_kernels_torch_'
OLDEST_TORCH = (2, 6)  # that custom operators were tried with, compiled too


def old_torch(torch_version: str) -> str | None:
    """Why this torch cannot have operators of ours, or None."""
    if tuple(map(int, torch_version.split('.')[:2])) >= OLDEST_TORCH:
        return None
    oldest = '.'.join(map(str, OLDEST_TORCH))
    return f'needs torch {oldest} or newer, got {torch_version}'


def library_stem(torch_version: str) -> str:
    """File name of the kernels for a torch, without its ending.

    Compiled code fits one torch release, so the release is in the name.
    """
    return PREFIX + torch_version.split('+')[0].replace('.', '_')


def sources(*endings: str) -> list[Path]:
    """The C++ files with these endings."""
    return sorted(f for f in FOLDER.iterdir() if f.suffix in endings)


def sources_digest() -> str:
    """Names the state of the C++ sources; empty where they are not shipped.

    The library holds the one it was compiled from: an editable install takes
    new sources at once, and its library only when it is built again.
    """
    files = sources('.cpp', '.h', '.inl')
    if not files:
        return ''
    contents = b'\0'.join(file.read_bytes() for file in files)
    return hashlib.sha256(contents).hexdigest()[:16]
