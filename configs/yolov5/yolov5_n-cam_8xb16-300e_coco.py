_base_ = './yolov5_n_8xb16-300e_coco.py'
model = dict(attention_conv=dict(type='CAMConv'))
