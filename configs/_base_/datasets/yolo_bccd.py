# BCCD, blood cells, for detectors of mmyolo, at 320x320. Training watches
# `val`; `tools/test.py` reports `test`. Their configs take it in.
bccd_root = '{{$MMRFA_DATA_ROOT:data}}/bccd/'
side = 320
image_file = dict(
    type='LoadImageFromFile', backend_args=dict(backend='checked')
)
load = [image_file, dict(type='LoadAnnotations', with_bbox=True)]
letterbox = dict(
    type='LetterResize',
    scale=(side, side),
    allow_scale_up=False,
    pad_val=dict(img=114),
)
affine = dict(
    type='YOLOv5RandomAffine',
    max_rotate_degree=0.0,
    max_shear_degree=0.0,
    scaling_ratio_range=(0.5, 1.5),
    border_val=(114, 114, 114),
)
change = [
    dict(type='YOLOv5HSVRandomAug'),
    # Under a microscope no direction is up.
    dict(
        type='mmdet.RandomFlip',
        prob=[0.25, 0.25, 0.25],
        direction=['horizontal', 'vertical', 'diagonal'],
    ),
    dict(type='mmdet.PackDetInputs'),
]
mosaic = dict(
    type='Mosaic', img_scale=(side, side), pad_val=114.0, pre_transform=load
)
# Several images make one ...
bccd_mosaic = [
    *load,
    mosaic,
    dict(affine, border=(-side // 2, -side // 2)),
    *change,
]
# ... and at the end of a training they do not.
bccd_single = [
    *load,
    dict(type='YOLOv5KeepRatioResize', scale=(side, side)),
    dict(letterbox, allow_scale_up=True),
    affine,
    *change,
]
truth = dict(type='LoadAnnotations', with_bbox=True, _scope_='mmdet')
pack = dict(
    type='mmdet.PackDetInputs',
    meta_keys=(
        'img_id',
        'img_path',
        'ori_shape',
        'img_shape',
        'scale_factor',
        'pad_param',
        'flip',
        'flip_direction',
    ),
)
bccd_test = [
    image_file,
    dict(type='YOLOv5KeepRatioResize', scale=(side, side)),
    letterbox,
    truth,
    pack,
]
bccd_tta = [
    image_file,
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(
                    type='Compose',
                    transforms=[
                        dict(type='YOLOv5KeepRatioResize', scale=(s, s)),
                        dict(letterbox, scale=(s, s)),
                    ],
                )
                for s in (256, 320, 384)
            ],
            [dict(type='mmdet.RandomFlip', prob=p) for p in (0.0, 1.0)],
            [truth],
            [pack],
        ],
    ),
]

bccd = {
    split: dict(
        batch_size=8,
        num_workers=2,
        persistent_workers=True,
        sampler=dict(type='DefaultSampler', shuffle=split == 'train'),
        dataset=dict(
            type='YOLOv5CocoDataset',
            metainfo=dict(
                classes=('RBC', 'WBC', 'Platelets'),
                palette=[(220, 20, 60), (106, 0, 228), (0, 182, 199)],
            ),
            data_root=bccd_root,
            ann_file=f'annotations/instances_{split}.json',
            data_prefix=dict(img='images/'),
            filter_cfg=dict(filter_empty_gt=False, min_size=32),
            test_mode=split != 'train',
            pipeline=bccd_mosaic if split == 'train' else bccd_test,
        ),
    )
    for split in ('train', 'val', 'test')
}
bccd['train']['collate_fn'] = dict(type='yolov5_collate')
bccd_metric = {
    split: dict(
        type='mmdet.CocoMetric',
        ann_file=f'{bccd_root}annotations/instances_{split}.json',
        metric='bbox',
        classwise=True,
    )
    for split in ('val', 'test')
}
