"""CBAMConv as a module."""

from torch import Tensor

from mmrfa.layers.base import AttentionConv2d
from mmrfa.layers.gates import build_gate
from mmrfa.ops import conv2d


class CBAMConv(AttentionConv2d):
    """Channel, then spatial attention on the input, then ``nn.Conv2d``.

    A baseline of the RFAConv paper (arXiv:2304.03198). The attention weighs
    the input, hence the taps of overlapping windows share their weight.

    Args:
        *args, **kwargs: those of ``nn.Conv2d``, see
            :class:`mmrfa.layers.base.AttentionConv2d`.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gate = build_gate(
            'cbam', self.in_channels, self.norm_cfg, **self.factory
        )

    def _forward(self, x: Tensor) -> Tensor:
        return conv2d(self.gate(x), self.conv, self.window)

    def _attention(self, x: Tensor) -> dict[str, Tensor]:
        return self.gate.attention(x)

    def _neutral(self) -> float:
        return 1 / self.gate.neutral()
