_base_ = './yolox_nano_8xb8-300e_coco.py'
model = dict(
    backbone=dict(attention_conv=dict(type='RFAConv')),
    neck=dict(attention_conv=dict(type='RFAConv')),
)
