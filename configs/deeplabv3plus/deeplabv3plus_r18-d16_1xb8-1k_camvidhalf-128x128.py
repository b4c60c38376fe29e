_base_ = './deeplabv3plus_r18-d16_1xb8-2k_camvidhalf-128x128.py'
# Rare classes count more, by 1 / ln(1.02 + share of the pixels of train) as in
# ENet (arXiv:1606.02147); the average over the pixels is 1.
class_weight = [
    0.80,  # Sky
    0.61,  # Building
    4.79,  # Pole
    0.48,  # Road
    2.21,  # Pavement
    1.25,  # Tree
    4.50,  # SignSymbol
    4.57,  # Fence
    1.83,  # Car
    5.43,  # Pedestrian
    6.27,  # Bicyclist
]
model = dict(decode_head=dict(loss_decode=dict(class_weight=class_weight)))
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=1000),
]
train_cfg = dict(max_iters=1000)
