# PASCAL VOC 2007 and 2012 for detectors of mmyolo: trained on both trainval,
# tested on the 2007 test set. Their configs take it in.
voc_root = '{{$MMRFA_DATA_ROOT:data}}/VOCdevkit/'
voc = dict(
    train=dict(
        type='ConcatOfOnePipeline',
        # the two years differ in this entry
        ignore_keys=['dataset_type'],
        datasets=[
            dict(
                type='YOLOv5VOCDataset',
                data_root=voc_root,
                ann_file=f'{year}/ImageSets/Main/trainval.txt',
                data_prefix=dict(sub_data_root=f'{year}/'),
                filter_cfg=dict(filter_empty_gt=False, min_size=32),
            )
            for year in ('VOC2007', 'VOC2012')
        ],
    ),
    test=dict(
        type='YOLOv5VOCDataset',
        data_root=voc_root,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        test_mode=True,
    ),
    # The paper's two columns: AP50, and the mean over COCO's thresholds.
    metric=dict(
        type='mmdet.VOCMetric',
        metric='mAP',
        iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95],
        eval_mode='area',
    ),
)
