_base_ = [
    '../_base_/models/faster-rcnn_r18_fpn.py',
    '../_base_/datasets/bccd.py',
    '../_base_/schedules/schedule_36e.py',
    '../_base_/default_runtime.py',
    '../_base_/det_runtime.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))
# The first metric is that of a single class here.
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
