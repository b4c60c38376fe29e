"""The small FCN with few channels, for tests that do not train."""

_base_ = './tiny_seg.py'
model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    decode_head=dict(in_channels=64, channels=8),
)
