# PASCAL VOC 2007 and 2012 as YOLOX trains on it: several images make one.
_base_ = ['./voc0712_detection.py', './yolox_pipelines.py']
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
            type='ConcatDataset',
            # as in the base
            ignore_keys=['dataset_type'],
            datasets=[
                dict(
                    type='VOCDataset',
                    data_root=_base_.data_root,
                    ann_file=f'{year}/ImageSets/Main/trainval.txt',
                    data_prefix=dict(sub_data_root=f'{year}/'),
                    filter_cfg=dict(filter_empty_gt=False, min_size=32),
                    pipeline=_base_.load_pipeline,
                )
                for year in ('VOC2007', 'VOC2012')
            ],
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8, num_workers=4, dataset=dict(pipeline=test_pipeline)
)
test_dataloader = val_dataloader
# The paper's two columns: AP50, and the mean over the thresholds of COCO.
val_evaluator = dict(
    iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95],
    eval_mode='area',
)
test_evaluator = val_evaluator
