# 2k iterations, else as the 4k.
_base_ = './schedule_4k.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=100,
        end=2000,
        by_epoch=False,
    ),
]
train_cfg = dict(max_iters=2000, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200))
