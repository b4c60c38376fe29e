"""The arithmetic of every operator; functions on torch alone.

``reference.py`` of each operator is its specification. Parameters live in
``mmrfa.layers``.
"""

from mmrfa.ops.aw import aw_conv2d
from mmrfa.ops.dispatch import BACKENDS, forced_backend, use_backend
from mmrfa.ops.gates import channel_gate, coordinate_gates, spatial_gate
from mmrfa.ops.receptive_field import (
    receptive_field,
    receptive_field_features,
    spread,
)
from mmrfa.ops.rfa import rfa_conv2d, rfa_unfold_conv2d
from mmrfa.ops.rfca import rfca_conv2d
from mmrfa.ops.rfcbam import rfcbam_conv2d

__all__ = [
    'BACKENDS',
    'aw_conv2d',
    'channel_gate',
    'coordinate_gates',
    'forced_backend',
    'receptive_field',
    'receptive_field_features',
    'rfa_conv2d',
    'rfa_unfold_conv2d',
    'rfca_conv2d',
    'rfcbam_conv2d',
    'spatial_gate',
    'spread',
    'use_backend',
]
