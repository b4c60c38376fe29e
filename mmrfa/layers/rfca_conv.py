"""RFCAConv as a module."""

from torch import Tensor

from mmrfa.layers.base import AttentionConv2d
from mmrfa.layers.gates import CoordinateGate
from mmrfa.ops import rfca_conv2d


class RFCAConv(AttentionConv2d):
    """Coordinate attention on receptive-field features, as nn.Conv2d.

    Equations and source: :func:`mmrfa.ops.rfca_conv2d`.

    Args:
        *args, **kwargs: those of ``nn.Conv2d``, see
            :class:`mmrfa.layers.base.AttentionConv2d`.
        reduction (int): channels / hidden width of the gates, the width being
            at least 8. Defaults to 32.
    """

    spreads = True

    def __init__(self, *args, reduction: int = 32, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.feature = self._feature_conv()
        self.norm = self._norm(self.in_channels * self.taps)
        self.gate = CoordinateGate(
            self.in_channels,
            reduction,
            norm_cfg=self.norm_cfg,
            **self.factory,
        )

    def _forward(self, x: Tensor) -> Tensor:
        return rfca_conv2d(
            x,
            self.feature.weight,
            self.norm,
            self.gate.params(),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            feature_bias=self.feature.bias,
        )
