_base_ = [
    '../_base_/models/deeplabv3plus_r18-d16.py',
    '../_base_/datasets/voc12_aug.py',
    '../_base_/schedules/schedule_20k.py',
    '../_base_/default_runtime.py',
    '../_base_/seg_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)),
    decode_head=dict(dilations=(1, 12, 24, 36)),
)
