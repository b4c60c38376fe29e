"""Receptive-field attention convolutions for PyTorch and OpenMMLab.

``mmrfa.ops`` holds the arithmetic and ``mmrfa.layers`` the modules;
``convert_convs`` puts them into any network. All of that needs torch alone.
``import mmrfa.models`` registers everything in MMEngine.
"""

from importlib import import_module

from mmrfa.version import __version__

# Where these are; torch is imported no sooner than it is needed.
_PLACES = {
    'convert_convs': 'mmrfa.conversion',
    'inspect': 'mmrfa.inspection',
    'plan_convs': 'mmrfa.conversion',
}

__all__ = ['__version__', *_PLACES]


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
