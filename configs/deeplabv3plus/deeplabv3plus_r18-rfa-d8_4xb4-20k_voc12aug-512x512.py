_base_ = './deeplabv3plus_r18-d8_4xb4-20k_voc12aug-512x512.py'
model = dict(backbone=dict(attention_conv=dict(type='RFAConv')))
