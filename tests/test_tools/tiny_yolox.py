"""The smallest one-stage detector: YOLOX with RFAConv on BCCD."""

_base_ = '../../configs/faster_rcnn/faster-rcnn_r18_fpn_1xb4-36e_bccd.py'
model = dict(
    _delete_=True,
    type='Converted',
    original='mmdet.YOLOX',
    attention_conv=dict(type='RFAConv'),
    where='backbone.stage?.0.conv',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.125),
    neck=dict(
        type='YOLOXPAFPN',
        in_channels=[32, 64, 128],
        out_channels=32,
        num_csp_blocks=1,
    ),
    bbox_head=dict(
        type='YOLOXHead', num_classes=3, in_channels=32, feat_channels=32
    ),
    train_cfg=dict(assigner=dict(type='SimOTAAssigner')),
    test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)),
)
test_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(
                type='LoadImageFromFile', backend_args=dict(backend='checked')
            ),
            dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                type='PackDetInputs',
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
            ),
        ]
    )
)
