_base_ = [
    '../_base_/models/deeplabv3plus_r18-d16.py',
    '../_base_/datasets/camvidhalf.py',
    '../_base_/schedules/schedule_1k.py',
    '../_base_/default_runtime.py',
    '../_base_/seg_runtime.py',
]
norm_cfg = dict(type='BN', requires_grad=True)
head = dict(num_classes=11, norm_cfg=norm_cfg)
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(norm_cfg=norm_cfg),
    decode_head=dict(head, loss_decode=dict(class_weight=_base_.class_weight)),
    auxiliary_head=head,
)
