"""Receptive-field attention convolutions for PyTorch and OpenMMLab.

``mmrfa.ops`` holds the arithmetic and ``mmrfa.layers`` the modules;
``convert_convs`` puts them into any network. All of that needs torch alone.
``import mmrfa.models`` registers everything in MMEngine.
"""

from mmrfa.version import __version__

__all__ = ['__version__', 'convert_convs', 'plan_convs']


def __getattr__(name: str) -> object:
    """Import torch no sooner than it is needed."""
    if name in ('convert_convs', 'plan_convs'):
        from mmrfa import conversion

        return getattr(conversion, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
