_base_ = './yolox_tiny_1xb8-100e_bccd.py'
model = dict(
    backbone=dict(attention_conv=dict(type='RFAConv')),
    neck=dict(attention_conv=dict(type='RFAConv')),
)
