_base_ = './resnet18_1xb32-20e_clothing10-64x64.py'
model = dict(backbone=dict(attention_conv=dict(type='AWConv')))
