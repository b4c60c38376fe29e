_base_ = [
    '../_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/voc0712_detection.py',
    '../_base_/schedules/schedule_1x_voc.py',
    '../_base_/default_runtime.py',
    '../_base_/det_runtime.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=20)))
