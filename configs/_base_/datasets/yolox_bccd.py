# BCCD as YOLOX trains on it, several images making one, with the pipelines
# of its small members.
_base_ = ['./bccd.py', './yolox_pipelines.py']
train_pipeline = _base_.small_mosaic_pipeline
test_pipeline = _base_.small_letterbox_pipeline
tta_pipeline = _base_.letterbox_tta_pipeline

train_dataloader = dict(
    _delete_=True,
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='MultiImageMixDataset',
        dataset=dict(
            type='CocoDataset',
            metainfo=_base_.metainfo,
            data_root=_base_.data_root,
            ann_file='annotations/instances_train.json',
            data_prefix=dict(img='images/'),
            filter_cfg=dict(filter_empty_gt=False, min_size=32),
            pipeline=_base_.load_pipeline,
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
