# What `make demo` trains: DeepLabV3+ on an RFA-ResNet-18 at output stride 16,
# from scratch, on the sample that tools/dataset_converters/make_sample.py
# writes. A few minutes on two CPU cores.
_base_ = [
    '../_base_/models/deeplabv3plus_r18-d16.py',
    '../_base_/schedules/schedule_4k.py',
    '../_base_/default_runtime.py',
    '../_base_/seg_runtime.py',
]
data_root = '{{$MMRFA_DATA_ROOT:data/sample}}/VOCdevkit/VOC2012'
crop_size = (96, 96)
metainfo = dict(
    classes=('background', 'ball', 'book', 'kite'),
    palette=[[0, 0, 0], [230, 60, 60], [60, 90, 230], [240, 200, 40]],
)
max_iters = 300

norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(attention_conv=dict(type='RFAConv'), norm_cfg=norm_cfg),
    decode_head=dict(num_classes=4, norm_cfg=norm_cfg),
    auxiliary_head=dict(num_classes=4, norm_cfg=norm_cfg),
)

backend_args = dict(backend='checked')
check_mask = dict(type='CheckMask', num_classes=4)
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=backend_args),
    dict(type='LoadAnnotations', backend_args=backend_args),
    check_mask,
    dict(
        type='RandomResize',
        scale=crop_size,
        ratio_range=(0.75, 1.5),
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=backend_args),
    dict(type='LoadAnnotations', backend_args=backend_args),
    check_mask,
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    metainfo=metainfo,
    data_root=data_root,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        ann_file='ImageSets/Segmentation/train.txt',
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=20, by_epoch=False),
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=20,
        end=max_iters,
        by_epoch=False,
    ),
]
train_cfg = dict(max_iters=max_iters, val_interval=50)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=max_iters, save_best=None, max_keep_ckpts=1),
)
# The same run every time.
randomness = dict(seed=0)
