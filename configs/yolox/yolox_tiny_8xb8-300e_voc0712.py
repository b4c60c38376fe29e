_base_ = [
    '../_base_/models/yolox_tiny.py',
    '../_base_/datasets/yolox_voc0712.py',
    '../_base_/schedules/schedule_yolox_300e.py',
    '../_base_/yolox_runtime.py',
]
train_pipeline = _base_.small_mosaic_pipeline
test_pipeline = _base_.small_letterbox_pipeline
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(bbox_head=dict(num_classes=20))
