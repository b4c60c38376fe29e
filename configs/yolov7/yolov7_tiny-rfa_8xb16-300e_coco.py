_base_ = './yolov7_tiny_8xb16-300e_coco.py'
# At the first convolution too, as the paper's operations say (README.md).
model = dict(
    attention_conv=dict(type='RFAConv'),
    where=['backbone.stem.?.conv', 'neck.downsample_layers.?.conv'],
)
