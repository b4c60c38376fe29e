_base_ = './resnet18_1xb32-30e_clothing10.py'
model = dict(backbone=dict(attention_conv=dict(type='AWConv')))
