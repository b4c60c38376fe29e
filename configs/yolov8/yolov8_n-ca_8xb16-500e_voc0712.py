_base_ = './yolov8_n_8xb16-500e_voc0712.py'
model = dict(attention_conv=dict(type='CAConv'))
