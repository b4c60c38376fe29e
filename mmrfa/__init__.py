"""Receptive-field attention convolutions for PyTorch and OpenMMLab.

``mmrfa.ops`` holds the arithmetic and ``mmrfa.layers`` the modules; both need
torch alone. ``import mmrfa.models`` registers everything in MMEngine.
"""

from mmrfa.version import __version__

__all__ = ['__version__', 'inspect']


def __getattr__(name: str):
    """Import what is used of it, and no earlier: torch takes a second."""
    if name == 'inspect':
        from mmrfa.inspection import inspect

        return inspect
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
