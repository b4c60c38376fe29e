_base_ = './yolov5_n_1xb8-40e_bccd.py'
model = dict(attention_conv=dict(type='RFCAConv'))
