"""Receptive-field attention convolutions for PyTorch and OpenMMLab.

``mmrfa.ops`` holds the arithmetic and ``mmrfa.layers`` the modules; both need
torch alone. ``import mmrfa.models`` registers everything in MMEngine.
"""

from mmrfa.version import __version__

__all__ = ['__version__']
