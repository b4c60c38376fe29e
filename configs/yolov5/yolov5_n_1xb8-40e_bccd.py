_base_ = [
    './yolov5_n_8xb16-300e_coco.py',
    '../_base_/datasets/yolo_bccd.py',
]
model = dict(
    bbox_head=dict(
        head_module=dict(num_classes=3),
        # Anchors and the weights of the losses as for 640 pixels and 80
        # classes.
        prior_generator=dict(
            base_sizes=[
                [(w // 2, h // 2) for w, h in level]
                for level in _base_.anchors
            ]
        ),
        loss_cls=dict(loss_weight=_base_.loss_cls_weight * 3 / 80),
        loss_obj=dict(loss_weight=_base_.loss_obj_weight / 4),
    )
)
train_pipeline = _base_.bccd_mosaic
test_pipeline = _base_.bccd_test
tta_pipeline = _base_.bccd_tta
train_dataloader = dict(_delete_=True, **_base_.bccd.train)
val_dataloader = dict(_delete_=True, **_base_.bccd.val)
test_dataloader = dict(_delete_=True, **_base_.bccd.test)
val_evaluator = dict(_delete_=True, **_base_.bccd_metric.val)
test_evaluator = dict(_delete_=True, **_base_.bccd_metric.test)
max_epochs = 40
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(batch_size_per_gpu=8))
default_hooks = dict(
    # 'auto' takes the first metric, that of a single class here.
    checkpoint=dict(save_best='coco/bbox_mAP'),
    param_scheduler=dict(max_epochs=max_epochs, warmup_mim_iter=100),
)
auto_scale_lr = dict(base_batch_size=8)
