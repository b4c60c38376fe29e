"""What a run was made with: machine, versions and commit."""

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from mmrfa.openmmlab import DISTRIBUTIONS
from mmrfa.version import __version__


@cache
def device() -> str:
    """The GPU if there is one, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path('/proc/cpuinfo')
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor()


@cache
def versions() -> str:
    """Of Python, of this package and of what it stands on."""
    found = [f'python {platform.python_version()}', f'mmrfa {__version__}']
    for package, names in {'torch': ['torch'], **DISTRIBUTIONS}.items():
        for name in [names] if isinstance(names, str) else names:
            try:
                found.append(f'{package} {metadata.version(name)}')
            except metadata.PackageNotFoundError:
                continue
            break
    return ', '.join(found)


def commit() -> str:
    """Of the clone as it is; with a + where files in it were changed.

    ``unknown`` where git is missing, or does not keep this file.
    """
    if not _git('ls-files', '--error-unmatch', __file__):
        return 'unknown'
    head = _git('rev-parse', '--short=12', 'HEAD')
    changed = _git('diff', 'HEAD', '--stat', '--', ':/mmrfa', ':/configs')
    return head + ('+' if changed else '')


def _git(*words: str) -> str:
    """What git says of the folder of this file; nothing where it fails."""
    try:
        return subprocess.run(
            ['git', '-C', str(Path(__file__).parent), *words],
            capture_output=True,
            text=True,
        ).stdout.strip()
    except OSError:
        return ''
