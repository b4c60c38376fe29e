_base_ = './faster-rcnn_r101_fpn_1x_coco.py'
# The stem and the first stage are frozen, so they keep their weights.
model = dict(
    backbone=dict(
        attention_conv=dict(type='RFCAConv'),
        stage_with_attention_conv=(False, True, True, True),
    )
)
