_base_ = './faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(
        depth=101, init_cfg=dict(checkpoint='open-mmlab://resnet101_v1c')
    )
)
