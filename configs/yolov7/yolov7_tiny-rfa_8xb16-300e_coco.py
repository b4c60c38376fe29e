_base_ = './yolov7_tiny_8xb16-300e_coco.py'
model = dict(attention_conv=dict(type='RFAConv'))
