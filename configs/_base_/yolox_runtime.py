# Detection runs of YOLOX. Its backbone and neck are registered on their own,
# since they need the compiled operators of mmcv.
_base_ = ['./default_runtime.py', './det_runtime.py']
custom_imports = dict(
    imports=['mmrfa.models', 'mmrfa.models.yolox', 'mmrfa.datasets'],
    allow_failed_imports=False,
)
tta_model = dict(tta_cfg=dict(nms=dict(iou_threshold=0.65)))
