"""The small FCN on one stage of few channels, for what does not train."""

_base_ = './tiny_seg.py'
model = dict(
    backbone=dict(
        num_stages=1,
        out_indices=(0,),
        strides=(1,),
        dilations=(1,),
        stage_with_attention_conv=(True,),
        base_channels=8,
        stem_channels=8,
    ),
    decode_head=dict(in_channels=8, in_index=0, channels=8),
)
