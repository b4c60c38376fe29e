# CamVid at half size, 240x180, for machines without a GPU. Scores are those of
# the masks at 480x360, to which predictions are enlarged.
_base_ = './camvid.py'
scale = (240, 180)
crop_size = (128, 128)
# For losses in which rare classes count more: 1 / ln(1.02 + share of the
# pixels of train) as in ENet (arXiv:1606.02147), 1 for a pixel on average.
class_weight = [
    0.80,  # Sky
    0.61,  # Building
    4.79,  # Pole
    0.48,  # Road
    2.21,  # Pavement
    1.25,  # Tree
    4.50,  # SignSymbol
    4.57,  # Fence
    1.83,  # Car
    5.43,  # Pedestrian
    6.27,  # Bicyclist
]

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', backend_args=_base_.backend_args),
    _base_.check_mask,
    dict(
        type='RandomResize',
        scale=scale,
        ratio_range=(0.75, 2.0),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', backend_args=_base_.backend_args),
    _base_.check_mask,
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(
                    type='Resize',
                    scale=(int(240 * ratio), int(180 * ratio)),
                    keep_ratio=True,
                )
                for ratio in (0.75, 1.0, 1.25, 1.5)
            ],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [dict(type='LoadAnnotations', backend_args=_base_.backend_args)],
            [_base_.check_mask],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
