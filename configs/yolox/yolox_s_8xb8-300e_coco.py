_base_ = [
    '../_base_/models/yolox_s.py',
    '../_base_/datasets/yolox_coco.py',
    '../_base_/schedules/schedule_yolox_300e.py',
    '../_base_/yolox_runtime.py',
]
