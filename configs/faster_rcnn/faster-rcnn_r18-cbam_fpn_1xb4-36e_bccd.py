_base_ = './faster-rcnn_r18_fpn_1xb4-36e_bccd.py'
model = dict(backbone=dict(attention_conv=dict(type='CBAMConv')))
