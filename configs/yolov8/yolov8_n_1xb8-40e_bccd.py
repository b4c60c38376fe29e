_base_ = [
    './yolov8_n_8xb16-500e_coco.py',
    '../_base_/datasets/yolo_bccd.py',
]
model = dict(
    bbox_head=dict(head_module=dict(num_classes=3)),
    train_cfg=dict(assigner=dict(num_classes=3)),
)
train_pipeline = _base_.bccd_mosaic
test_pipeline = _base_.bccd_test
tta_pipeline = _base_.bccd_tta
train_dataloader = dict(_delete_=True, **_base_.bccd.train)
val_dataloader = dict(_delete_=True, **_base_.bccd.val)
test_dataloader = dict(_delete_=True, **_base_.bccd.test)
val_evaluator = dict(_delete_=True, **_base_.bccd_metric.val)
test_evaluator = dict(_delete_=True, **_base_.bccd_metric.test)
# 40 epochs of few images, the last 10 without mosaic.
max_epochs = 40
train_cfg = dict(max_epochs=max_epochs, dynamic_intervals=None)
optim_wrapper = dict(optimizer=dict(batch_size_per_gpu=8))
default_hooks = dict(
    # 'auto' takes the first metric, that of a single class here.
    checkpoint=dict(save_best='coco/bbox_mAP'),
    param_scheduler=dict(max_epochs=max_epochs, warmup_mim_iter=100),
)
custom_hooks = [
    _base_.custom_hooks[0],
    dict(
        type='mmdet.PipelineSwitchHook',
        switch_epoch=max_epochs - 10,
        switch_pipeline=_base_.bccd_single,
    ),
]
auto_scale_lr = dict(base_batch_size=8)
