_base_ = [
    '../_base_/models/yolox_s.py',
    '../_base_/datasets/yolox_voc0712.py',
    '../_base_/schedules/schedule_yolox_300e.py',
    '../_base_/yolox_runtime.py',
]
model = dict(bbox_head=dict(num_classes=20))
