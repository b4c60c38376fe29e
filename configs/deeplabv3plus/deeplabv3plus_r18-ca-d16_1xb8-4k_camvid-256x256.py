_base_ = './deeplabv3plus_r18-d16_1xb8-4k_camvid-256x256.py'
model = dict(backbone=dict(attention_conv=dict(type='CAConv')))
