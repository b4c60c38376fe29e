# 1k iterations, else as the 4k.
_base_ = './schedule_4k.py'
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=1000),
]
train_cfg = dict(max_iters=1000, val_interval=200)
default_hooks = dict(checkpoint=dict(interval=200))
