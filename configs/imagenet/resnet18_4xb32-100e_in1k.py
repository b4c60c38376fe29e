_base_ = [
    '../_base_/models/classifier_r18.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/schedule_100e.py',
    '../_base_/default_runtime.py',
    '../_base_/cls_runtime.py',
]
