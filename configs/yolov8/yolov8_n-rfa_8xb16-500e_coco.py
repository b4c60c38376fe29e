_base_ = './yolov8_n_8xb16-500e_coco.py'
model = dict(attention_conv=dict(type='RFAConv'))
