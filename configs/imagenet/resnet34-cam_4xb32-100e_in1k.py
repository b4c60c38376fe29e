_base_ = './resnet34_4xb32-100e_in1k.py'
model = dict(backbone=dict(attention_conv=dict(type='CAMConv')))
