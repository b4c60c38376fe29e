_base_ = './yolov8_n_1xb8-40e_bccd.py'
model = dict(attention_conv=dict(type='RFCBAMConv'))
