# DeepLabV3+ on a ResNet-18 at output stride 16, from scratch.
# RFAResNet, not V1c: the 7x7 stem is that of the RFAConv paper's ResNet-18,
# so torchvision's weights and the paper's own fit. To start from a file:
# --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=FILE
_base_ = './deeplabv3plus_r50-d8.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='RFAResNet',
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 1, 2),
        strides=(1, 2, 2, 1),
        norm_cfg=_base_.norm_cfg,
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
    ),
    decode_head=dict(
        in_channels=512,
        channels=128,
        dilations=(1, 6, 12, 18),
        c1_in_channels=64,
        c1_channels=12,
    ),
    auxiliary_head=dict(in_channels=256, channels=64),
)
