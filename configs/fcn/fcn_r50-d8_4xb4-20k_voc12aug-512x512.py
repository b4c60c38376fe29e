_base_ = [
    '../_base_/models/fcn_r50-d8.py',
    '../_base_/datasets/voc12_aug.py',
    '../_base_/schedules/schedule_20k.py',
    '../_base_/default_runtime.py',
    '../_base_/seg_runtime.py',
]
model = dict(data_preprocessor=dict(size=_base_.crop_size))
