"""The arithmetic of every operator; functions on torch alone.

``reference.py`` of each operator is its specification. Parameters live in
``mmrfa.layers``.
"""

from mmrfa.ops.aw import WeightAttention, aw_conv2d
from mmrfa.ops.common.features import receptive_field_features
from mmrfa.ops.common.gates import (
    CoordinateGates,
    channel_gate,
    coordinate_gates,
    spatial_gate,
)
from mmrfa.ops.common.norm import BatchNorm, ConvNorm, normalize
from mmrfa.ops.common.taps import Conv, conv2d
from mmrfa.ops.common.window import Window, receptive_field, spread, unspread
from mmrfa.ops.dispatch import BACKENDS, forced_backend, operator, use_backend
from mmrfa.ops.rfa import rfa_conv2d, rfa_unfold_conv2d
from mmrfa.ops.rfca import rfca_conv2d
from mmrfa.ops.rfcbam import CBAMGates, rfcbam_conv2d

__all__ = [
    'BACKENDS',
    'BatchNorm',
    'CBAMGates',
    'Conv',
    'ConvNorm',
    'CoordinateGates',
    'WeightAttention',
    'Window',
    'aw_conv2d',
    'channel_gate',
    'conv2d',
    'coordinate_gates',
    'forced_backend',
    'normalize',
    'operator',
    'receptive_field',
    'receptive_field_features',
    'rfa_conv2d',
    'rfa_unfold_conv2d',
    'rfca_conv2d',
    'rfcbam_conv2d',
    'spatial_gate',
    'spread',
    'unspread',
    'use_backend',
]
