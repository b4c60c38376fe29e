# YOLOv5s: twice as wide.
_base_ = './yolov5_n_8xb16-300e_voc0712.py'
model = dict(
    backbone=dict(widen_factor=0.5),
    neck=dict(widen_factor=0.5),
    bbox_head=dict(head_module=dict(widen_factor=0.5)),
)
