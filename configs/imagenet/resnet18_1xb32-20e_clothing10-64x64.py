_base_ = [
    '../_base_/models/classifier_r18.py',
    '../_base_/datasets/clothing10.py',
    '../_base_/schedules/schedule_20e.py',
    '../_base_/default_runtime.py',
    '../_base_/cls_runtime.py',
]
model = dict(
    data_preprocessor=dict(num_classes=10),
    head=dict(num_classes=10, topk=(1,)),
)
