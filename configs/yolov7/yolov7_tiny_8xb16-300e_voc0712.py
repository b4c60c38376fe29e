_base_ = [
    './yolov7_tiny_8xb16-300e_coco.py',
    '../_base_/datasets/yolo_voc0712.py',
]
model = dict(
    bbox_head=dict(
        head_module=dict(num_classes=20),
        loss_cls=dict(loss_weight=_base_.loss_cls_weight * 20 / 80),
    )
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True, pipeline=_base_.train_pipeline, **_base_.voc.train
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        pipeline=_base_.test_pipeline,
        batch_shapes_cfg=_base_.batch_shapes_cfg,
        **_base_.voc.test,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, **_base_.voc.metric)
test_evaluator = val_evaluator
