"""An operator as a shape-keeping residual block for ResNet plugins."""

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.models.operators import check_operator


@MODELS.register_module()
class AttentionBlock(BaseModule):
    """``x + norm(operator(x))``; the identity until training moves it.

    The norm starts at zero, as in MMCV's own plugin blocks, so that a
    pretrained network keeps its function when a block is put in. In a config:
    ``plugins=[dict(cfg=dict(type='AttentionBlock',
    attention_conv=dict(type='RFAConv')), position='after_conv2')]``, and a
    ``postfix`` in ``cfg`` for a second one in the same residual block.

    Args:
        in_channels (int): C, channels in and out; set by the ResNet.
        attention_conv (dict): the operator, ``type`` being any registered
            one, other keys its arguments. Without a ``bias`` of its own it
            has none, since a norm follows.
        kernel_size (int): odd, in pixels. Defaults to 3.
        norm_cfg (dict | None): norm layer behind the operator, and inside it
            unless it has its own. None stands for BN.
        init_cfg (dict | None): OpenMMLab's. Defaults to None.

    Raises:
        InputError: an unknown operator, or an even kernel size.
    """

    _abbr_ = 'attention_block'

    def __init__(
        self,
        in_channels: int,
        attention_conv: dict,
        kernel_size: int = 3,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_operator(attention_conv)
        if kernel_size % 2 != 1:
            raise InputError(
                'AttentionBlock: expected an odd kernel_size, got '
                f'{kernel_size}'
            )
        norm_cfg = norm_cfg or dict(type='BN')
        self.conv = build_conv_layer(
            {'norm_cfg': norm_cfg, 'bias': False, **attention_conv},
            in_channels,
            in_channels,
            kernel_size,
            padding=kernel_size // 2,
        )
        self.norm = build_norm_layer(norm_cfg, in_channels)[1]
        nn.init.zeros_(self.norm.weight)

    def init_weights(self) -> None:
        """Initialise the operator, and the norm at zero."""
        super().init_weights()
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block on x (N, C, H, W); same shape."""
        return x + self.norm(self.conv(x))
