# DeepLabV3+ with an RFA-ResNet-50 on PASCAL VOC 2012 + aug, output stride 8.
_base_ = (
    './deeplabv3plus/deeplabv3plus_r50-rfa-d8_4xb4-20k_voc12aug-512x512.py'
)
