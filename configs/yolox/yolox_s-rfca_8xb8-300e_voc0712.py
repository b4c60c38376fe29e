_base_ = './yolox_s_8xb8-300e_voc0712.py'
model = dict(
    backbone=dict(attention_conv=dict(type='RFCAConv')),
    neck=dict(attention_conv=dict(type='RFCAConv')),
)
