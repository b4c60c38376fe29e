"""The operators as shape-keeping residual blocks for ResNet plugins."""

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmrfa.layers import (
    AttentionConv2d,
    AWConv,
    CAConv,
    CAMConv,
    CBAMConv,
    RFAConv,
    RFCAConv,
    RFCBAMConv,
)


class AttentionBlock(BaseModule):
    """``x + norm(operator(x))``; the identity until training moves it.

    The last norm starts at zero, as in MMCV's own plugin blocks, so that a
    pretrained network keeps its function when a block is put in. Subclasses
    fix the operator and the name of the block in the state dict (_abbr_).

    Args:
        in_channels (int): C, channels in and out; set by the ResNet.
        kernel_size (int): odd, in pixels. Defaults to 3.
        norm_cfg (dict): norm layer behind the operator. Defaults to BN.
        init_cfg (dict | None): OpenMMLab's. Defaults to None.
        **conv_cfg: further arguments of the operator.
    """

    operator: type[AttentionConv2d]

    def __init__(
        self,
        in_channels: int,
        kernel_size: int = 3,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
        **conv_cfg,
    ) -> None:
        super().__init__(init_cfg)
        norm_cfg = norm_cfg or dict(type='BN')
        self.conv = ConvModule(
            in_channels,
            in_channels,
            kernel_size,
            padding=kernel_size // 2,
            conv_cfg=dict(type=self.operator, norm_cfg=norm_cfg, **conv_cfg),
            norm_cfg=norm_cfg,
            act_cfg=None,
        )
        nn.init.zeros_(self.conv.norm.weight)

    def init_weights(self) -> None:
        """Initialise, with the last norm at zero."""
        super().init_weights()
        self.conv.init_weights()
        nn.init.zeros_(self.conv.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on x (N, C, H, W); same shape."""
        return x + self.conv(x)


@MODELS.register_module()
class RFAConvBlock(AttentionBlock):
    """RFAConv as a plugin, see :class:`AttentionBlock`."""

    operator = RFAConv
    _abbr_ = 'rfa_conv_block'


@MODELS.register_module()
class RFCBAMConvBlock(AttentionBlock):
    """RFCBAMConv as a plugin, see :class:`AttentionBlock`."""

    operator = RFCBAMConv
    _abbr_ = 'rfcbam_conv_block'


@MODELS.register_module()
class RFCAConvBlock(AttentionBlock):
    """RFCAConv as a plugin, see :class:`AttentionBlock`."""

    operator = RFCAConv
    _abbr_ = 'rfca_conv_block'


@MODELS.register_module()
class CAMConvBlock(AttentionBlock):
    """CAMConv as a plugin, see :class:`AttentionBlock`."""

    operator = CAMConv
    _abbr_ = 'cam_conv_block'


@MODELS.register_module()
class CBAMConvBlock(AttentionBlock):
    """CBAMConv as a plugin, see :class:`AttentionBlock`."""

    operator = CBAMConv
    _abbr_ = 'cbam_conv_block'


@MODELS.register_module()
class CAConvBlock(AttentionBlock):
    """CAConv as a plugin, see :class:`AttentionBlock`."""

    operator = CAConv
    _abbr_ = 'ca_conv_block'


@MODELS.register_module()
class AWConvBlock(AttentionBlock):
    """AWConv as a plugin, see :class:`AttentionBlock`."""

    operator = AWConv
    _abbr_ = 'aw_conv_block'
