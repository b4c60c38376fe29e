"""RFCBAMConv as a module."""

from torch import Tensor, nn

from mmrfa.layers.base import AttentionConv2d
from mmrfa.layers.parts import conv_norm
from mmrfa.ops import CBAMGates, rfcbam_conv2d, unspread
from mmrfa.ops.rfcbam.reference import features_and_gates


class RFCBAMConv(AttentionConv2d):
    """CBAM attention on receptive-field features, a drop-in for nn.Conv2d.

    Equations and source: :func:`mmrfa.ops.rfcbam_conv2d`.

    Args:
        *args, **kwargs: those of ``nn.Conv2d``, see
            :class:`mmrfa.layers.base.AttentionConv2d`.
        hidden (int): width of the channel attention. Defaults to 16, which
            the published parameter count needs whatever the channels.
    """

    def __init__(self, *args, hidden: int = 16, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._check_count('hidden', hidden)
        channels = self.in_channels
        self.feature = self._feature_layer()
        self.norm = self._norm(channels * self.taps)
        self.squeeze = self._layer(channels, hidden, bias=False)
        self.expand = self._layer(hidden, channels, bias=False)
        self.spatial = self._layer(2, 1, 3, padding=1, bias=False)

    @property
    def feature_norm(self) -> nn.Module:
        """The norm behind the features."""
        return self.norm

    def _gates(self) -> CBAMGates:
        layers = self.squeeze, self.expand, self.spatial
        return CBAMGates(*(layer.weight for layer in layers))

    def _forward(self, x: Tensor) -> Tensor:
        feature = conv_norm(self.feature, self.norm)
        return rfcbam_conv2d(x, feature, self._gates(), self.conv, self.window)

    def _attention(self, x: Tensor) -> dict[str, Tensor]:
        feature = conv_norm(self.feature, self.norm)
        _, channels, taps = features_and_gates(
            x, feature, self._gates(), self.window
        )
        taps = unspread(taps, self.kernel_size)
        return dict(channels=channels.unsqueeze(2), taps=taps)

    def _neutral(self) -> float:
        # Both sigmoids are 1/2.
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.spatial.weight)
        return 4
