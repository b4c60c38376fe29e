_base_ = './deeplabv3plus_r18-d16_1xb8-1k_camvidhalf-128x128.py'
model = dict(backbone=dict(attention_conv=dict(type='RFCBAMConv')))
