# YOLOv7-tiny of mmyolo, with a place for operators (README.md).
_base_ = [
    'mmyolo::yolov7/yolov7_tiny_syncbn_fast_8x16b-300e_coco.py',
    '../_base_/mmyolo.py',
]
model = dict(
    type='Converted',
    original='YOLODetector',
    where=['backbone.stem.1.conv', 'neck.downsample_layers.?.conv'],
    norm_cfg=_base_.norm_cfg,
    start='plain',
)
data_root = '{{$MMRFA_DATA_ROOT:data}}/coco/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + _base_.val_ann_file)
test_evaluator = val_evaluator
