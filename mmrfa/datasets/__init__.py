"""Data sets and data checks; importing registers them.

They go to MMEngine's root registries, where every scope finds them without
a prefix. Needs mmseg, but neither mmdet nor compiled operators.
"""

from mmrfa.datasets.camvid import CamVidDataset
from mmrfa.datasets.check_mask import CheckMask
from mmrfa.datasets.checked_backend import CheckedBackend, check_images
from mmrfa.datasets.concat import ConcatOfOnePipeline
from mmrfa.datasets.data_root import check_data_roots

__all__ = [
    'CamVidDataset',
    'CheckMask',
    'CheckedBackend',
    'ConcatOfOnePipeline',
    'check_data_roots',
    'check_images',
]
