_base_ = './faster-rcnn_r18_fpn_1x_coco.py'
model = dict(backbone=dict(attention_conv=dict(type='RFAConv')))
