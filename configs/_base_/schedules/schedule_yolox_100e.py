# 100 epochs of few images on one small GPU or a CPU (batch of 8). The rate is
# four times the one that YOLOX gives such a batch, for there are few steps.
_base_ = './schedule_yolox_300e.py'
max_epochs = 100
optim_wrapper = dict(optimizer=dict(lr=0.005))
param_scheduler = [
    dict(
        type='mmdet.QuadraticWarmupLR',
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=0.00025,
        begin=5,
        T_max=max_epochs - _base_.last_epochs,
        end=max_epochs - _base_.last_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='ConstantLR',
        by_epoch=True,
        factor=1,
        begin=max_epochs - _base_.last_epochs,
        end=max_epochs,
    ),
]
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=8)
