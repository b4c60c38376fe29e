"""RFAConv as a module."""

from torch import Tensor

from mmrfa.errors import InputError
from mmrfa.layers.base import AttentionConv2d
from mmrfa.ops import rfa_conv2d, rfa_unfold_conv2d


class RFAConv(AttentionConv2d):
    """Receptive-field attention convolution, a drop-in for ``nn.Conv2d``.

    Every tap of every window gets its own weight. Equations and source:
    :func:`mmrfa.ops.rfa_conv2d` and :func:`mmrfa.ops.rfa_unfold_conv2d`.

    Args:
        *args, **kwargs: those of ``nn.Conv2d``, see
            :class:`mmrfa.layers.base.AttentionConv2d`.
        mode (str): 'group' learns the receptive-field features by a grouped
            convolution, the form the paper uses; 'unfold' takes the raw
            patches. Defaults to 'group'.
    """

    spreads = True

    def __init__(self, *args, mode: str = 'group', **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if mode not in ('group', 'unfold'):
            raise InputError(
                f"RFAConv: mode must be 'group' or 'unfold', got {mode!r}"
            )
        self.mode = mode
        channels = self.in_channels
        if mode == 'group':
            self.attn = self._conv(
                channels, channels * self.taps, groups=channels, bias=False
            )
            self.feature = self._feature_conv()
        else:
            self.attn = self._conv(
                channels * self.taps, channels * self.taps, groups=channels
            )
        self.norm = self._norm(channels * self.taps)

    def _forward(self, x: Tensor) -> Tensor:
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        if self.mode == 'unfold':
            return rfa_unfold_conv2d(
                x,
                self.attn.weight,
                self.norm,
                self.weight,
                self.bias,
                *geometry,
                attn_bias=self.attn.bias,
            )
        return rfa_conv2d(
            x,
            self.attn.weight,
            self.feature.weight,
            self.norm,
            self.weight,
            self.bias,
            *geometry,
            feature_bias=self.feature.bias,
        )
