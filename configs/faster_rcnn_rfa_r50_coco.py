# Faster R-CNN with an RFA-ResNet-50 and FPN on COCO.
_base_ = './faster_rcnn/faster-rcnn_r50-rfa_fpn_1x_coco.py'
