_base_ = [
    '../_base_/models/yolox_tiny.py',
    '../_base_/datasets/yolox_bccd.py',
    '../_base_/schedules/schedule_yolox_100e.py',
    '../_base_/yolox_runtime.py',
]
resize = dict(
    type='BatchSyncRandomResize',
    random_size_range=(256, 448),  # tested at 416
    size_divisor=32,
    interval=10,
)
model = dict(
    data_preprocessor=dict(batch_augments=[resize]),
    bbox_head=dict(num_classes=3),
)
