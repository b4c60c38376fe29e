"""YOLOX with attention convolutions: its backbone and its neck.

Needs MMDetection and the compiled operators of mmcv, so ``mmrfa.models``
imports it only when a config names one of its classes.
"""

from collections.abc import Sequence

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmdet.models import YOLOXPAFPN, CSPDarknet
from mmengine.registry import MODELS

from mmrfa.errors import InputError
from mmrfa.models.operators import build_attention_conv, check_operator


@MODELS.register_module(force=True)
class RFACSPDarknet(CSPDarknet):
    """CSPDarknet whose downsampling convolutions are attention convolutions.

    The RFAConv paper (arXiv:2304.03198) places them so in its detectors: the
    3x3 stride-2 convolution that opens a stage, P2 to P5. The batch norm and
    the activation behind it stay, and so do all other names.

    Args:
        *args, **kwargs: those of mmdet's ``CSPDarknet``. With
            ``use_depthwise`` the operator replaces the depthwise 3x3, with
            as many groups; the 1x1 behind it stays.
        attention_conv (dict | None): the operator, ``type`` being any
            registered one, other keys its arguments. Its norm follows
            ``norm_cfg`` unless it has its own. None gives a plain CSPDarknet.
        stage_with_attention_conv (Sequence[bool] | None): which stages have
            it, one entry per stage. None stands for all.

    Raises:
        InputError: an unknown operator, or a wrong number of stages.
    """

    def __init__(
        self,
        *args,
        attention_conv: dict | None = None,
        stage_with_attention_conv: Sequence[bool] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        names = self.layers[1:]  # behind the stem
        chosen = stage_with_attention_conv
        if chosen is None:
            chosen = [True] * len(names)
        if len(chosen) != len(names):
            raise InputError(
                'RFACSPDarknet: expected stage_with_attention_conv with '
                f'{len(names)} entries, one per stage, got {chosen!r}'
            )
        if attention_conv is not None:
            for name, wanted in zip(names, chosen, strict=True):
                if wanted:
                    replace_conv(getattr(self, name)[0], attention_conv)

    def train(self, mode: bool = True) -> 'RFACSPDarknet':
        """Set the mode and return self, which mmdet's own does not."""
        super().train(mode)
        return self


@MODELS.register_module(force=True)
class RFAYOLOXPAFPN(YOLOXPAFPN):
    """YOLOXPAFPN with attention convolutions in its bottom-up path.

    They replace the 3x3 stride-2 convolutions, see :class:`RFACSPDarknet`.

    Args:
        *args, **kwargs: those of mmdet's ``YOLOXPAFPN``.
        attention_conv (dict | None): as in :class:`RFACSPDarknet`.

    Raises:
        InputError: an unknown operator.
    """

    def __init__(
        self, *args, attention_conv: dict | None = None, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        if attention_conv is not None:
            for layer in self.downsamples:
                replace_conv(layer, attention_conv)


def replace_conv(
    layer: ConvModule | DepthwiseSeparableConvModule, cfg: dict
) -> None:
    """Put an operator in place of the 3x3 convolution of a layer.

    Args:
        layer (ConvModule | DepthwiseSeparableConvModule): changed in place.
        cfg (dict): ``type`` and arguments of the operator.

    Raises:
        InputError: an unknown operator.
    """
    check_operator(cfg)
    block = getattr(layer, 'depthwise_conv', layer)
    block.conv = build_attention_conv(
        {'norm_cfg': block.norm_cfg, **cfg}, block.conv
    )
