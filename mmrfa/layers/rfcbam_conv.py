"""RFCBAMConv as a module."""

from torch import Tensor

from mmrfa.layers.base import AttentionConv2d
from mmrfa.ops import rfcbam_conv2d


class RFCBAMConv(AttentionConv2d):
    """CBAM attention on receptive-field features, a drop-in for nn.Conv2d.

    Equations and source: :func:`mmrfa.ops.rfcbam_conv2d`.

    Args:
        *args, **kwargs: those of ``nn.Conv2d``, see
            :class:`mmrfa.layers.base.AttentionConv2d`.
        hidden (int): width of the channel attention. Defaults to 16, which
            the published parameter count needs whatever the channels.
    """

    spreads = True

    def __init__(self, *args, hidden: int = 16, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        channels = self.in_channels
        self.feature = self._feature_conv()
        self.norm = self._norm(channels * self.taps)
        self.squeeze = self._conv(channels, hidden, bias=False)
        self.expand = self._conv(hidden, channels, bias=False)
        self.spatial = self._conv(2, 1, 3, padding=1, bias=False)

    def _forward(self, x: Tensor) -> Tensor:
        return rfcbam_conv2d(
            x,
            self.feature.weight,
            self.norm,
            self.squeeze.weight,
            self.expand.weight,
            self.spatial.weight,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            feature_bias=self.feature.bias,
        )
