# Detection runs of YOLOX.
_base_ = ['./default_runtime.py', './det_runtime.py']
tta_model = dict(tta_cfg=dict(nms=dict(iou_threshold=0.65)))
