"""RFCAConv as a module."""

from torch import Tensor, nn

from mmrfa.layers.base import AttentionConv2d
from mmrfa.layers.gates import CoordinateGate
from mmrfa.layers.parts import conv_norm
from mmrfa.ops import rfca_conv2d, unspread
from mmrfa.ops.rfca.reference import features_and_gates


class RFCAConv(AttentionConv2d):
    """Coordinate attention on receptive-field features, as nn.Conv2d.

    Equations and source: :func:`mmrfa.ops.rfca_conv2d`.

    Args:
        *args, **kwargs: those of ``nn.Conv2d``, see
            :class:`mmrfa.layers.base.AttentionConv2d`.
        reduction (int): channels / hidden width of the gates, the width being
            at least 8. Defaults to 32.
    """

    def __init__(self, *args, reduction: int = 32, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._check_count('reduction', reduction)
        self.feature = self._feature_layer()
        self.norm = self._norm(self.in_channels * self.taps)
        self.gate = CoordinateGate(
            self.in_channels,
            reduction,
            norm_cfg=self.norm_cfg,
            **self.factory,
        )

    @property
    def feature_norm(self) -> nn.Module:
        """The norm behind the features."""
        return self.norm

    def _forward(self, x: Tensor) -> Tensor:
        feature = conv_norm(self.feature, self.norm)
        return rfca_conv2d(
            x, feature, self.gate.layers(), self.conv, self.window
        )

    def _attention(self, x: Tensor) -> dict[str, Tensor]:
        feature = conv_norm(self.feature, self.norm)
        _, rows, columns = features_and_gates(
            x, feature, self.gate.layers(), self.window
        )
        kh, kw = self.kernel_size
        # Tap (i, j) lies in row i and column j of its window.
        rows, columns = unspread(rows, (kh, 1)), unspread(columns, (1, kw))
        return dict(
            rows=rows.repeat_interleave(kw, 2), columns=columns.tile(kh, 1, 1)
        )

    def _neutral(self) -> float:
        return 1 / self.gate.neutral()
