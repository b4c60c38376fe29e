_base_ = './yolov5_n_8xb16-300e_voc0712.py'
model = dict(attention_conv=dict(type='CAConv'))
