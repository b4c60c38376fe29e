"""CamVid, street scenes with 11 classes."""

from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid in its 480x360, 11-class form, in the folder layout of VOC.

    Masks hold class numbers; 255 is ignored. Arguments are those of mmseg's
    ``BaseSegDataset``. Source: Brostow et al., Semantic object classes in
    video, Pattern Recognition Letters 2009.
    """

    METAINFO = dict(
        classes=(
            'Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree',
            'SignSymbol', 'Fence', 'Car', 'Pedestrian', 'Bicyclist',
        ),
        palette=[
            [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128],
            [0, 0, 192], [128, 128, 0], [192, 128, 128], [64, 64, 128],
            [64, 0, 128], [64, 64, 0], [0, 128, 192],
        ],
    )  # fmt: skip
