# COCO 2017 as YOLOX trains on it: several images make one.
_base_ = ['./coco_detection.py', './yolox_pipelines.py']
train_pipeline = _base_.mosaic_pipeline
test_pipeline = _base_.letterbox_pipeline
tta_pipeline = _base_.letterbox_tta_pipeline

train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='MultiImageMixDataset',
        dataset=dict(
            type='CocoDataset',
            data_root=_base_.data_root,
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            filter_cfg=dict(filter_empty_gt=False, min_size=32),
            pipeline=_base_.load_pipeline,
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8, num_workers=4, dataset=dict(pipeline=test_pipeline)
)
test_dataloader = val_dataloader
