# YOLOv8n of mmyolo, with a place for operators (README.md).
_base_ = [
    'mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py',
    '../_base_/mmyolo.py',
]
model = dict(
    type='Converted',
    original='YOLODetector',
    where=['backbone.stage?.0.conv', 'neck.downsample_layers.?.conv'],
    norm_cfg=_base_.norm_cfg,
    start='plain',
)
data_root = '{{$MMRFA_DATA_ROOT:data}}/coco/'
train_pipeline, last_pipeline = (
    [step for step in pipeline if step.type != 'mmdet.Albu']
    for pipeline in (_base_.train_pipeline, _base_.train_pipeline_stage2)
)
train_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + _base_.val_ann_file)
test_evaluator = val_evaluator
custom_hooks = [
    _base_.custom_hooks[0],
    dict(_base_.custom_hooks[1], switch_pipeline=last_pipeline),
]
