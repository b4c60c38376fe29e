# The pipelines of YOLOX, those of s, and those of tiny and nano (small_...).
# Mosaic, RandomAffine and MixUp are switched off for the last epochs; Resize
# and Pad are there for those. `checked` reads files as usual and names the
# one that is not an image.
image_file = dict(
    type='LoadImageFromFile', backend_args=dict(backend='checked')
)
pack_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
size = (640, 640)
pad = dict(
    type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))
)
border = (-size[0] // 2, -size[1] // 2)
finish = [
    dict(type='YOLOXHSVRandomAug'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Resize', scale=size, keep_ratio=True),
    pad,
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='PackDetInputs'),
]

load_pipeline = [image_file, dict(type='LoadAnnotations', with_bbox=True)]
mosaic_pipeline = [
    dict(type='Mosaic', img_scale=size, pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.1, 2), border=border),
    dict(type='MixUp', img_scale=size, ratio_range=(0.8, 1.6), pad_val=114.0),
    *finish,
]
letterbox_pipeline = [
    image_file,
    dict(type='Resize', scale=size, keep_ratio=True),
    pad,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=pack_keys),
]
small_mosaic_pipeline = [
    dict(type='Mosaic', img_scale=size, pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.5, 1.5), border=border),
    *finish,
]
small_letterbox_pipeline = [
    image_file,
    dict(type='Resize', scale=(416, 416), keep_ratio=True),
    pad,
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=pack_keys),
]
letterbox_tta_pipeline = [
    image_file,
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(side, side), keep_ratio=True)
                for side in (320, 640, 960)
            ],
            # Flipped before the padding, which lies right and below: the
            # boxes are flipped back within the image.
            [
                dict(type='RandomFlip', prob=0.0),
                dict(type='RandomFlip', prob=1.0),
            ],
            [pad],
            [dict(type='LoadAnnotations', with_bbox=True)],
            [
                dict(
                    type='PackDetInputs',
                    meta_keys=pack_keys + ('flip', 'flip_direction'),
                )
            ],
        ],
    ),
]
