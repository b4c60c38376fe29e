"""AWConv as a module."""

from torch import Tensor, nn

from mmrfa.layers.base import AttentionConv2d
from mmrfa.layers.gates import build_gate
from mmrfa.layers.parts import conv_norm
from mmrfa.ops import Conv, WeightAttention, aw_conv2d
from mmrfa.ops.aw.reference import weight_attention


class AWConv(AttentionConv2d):
    """Convolution whose weight is attended per sample, as nn.Conv2d.

    Equations, source and what is our reading of it:
    :func:`mmrfa.ops.aw.reference.weight_attention`.

    Args:
        *args, **kwargs: those of ``nn.Conv2d``, see
            :class:`mmrfa.layers.base.AttentionConv2d`.
        reduction (int): r. Defaults to 16.
        activation (str | None): activation attention to combine with, 'se',
            'cam', 'cbam' or 'ca': it gates what is convolved, the weight
            attention sees the input as it came. Defaults to None.
    """

    def __init__(
        self,
        *args,
        reduction: int = 16,
        activation: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._check_count('reduction', reduction)
        hidden = max(1, self.in_channels // reduction)
        maps = max(1, self.in_channels // self.groups // reduction)
        self.squeeze = self._layer(self.in_channels, hidden, bias=False)
        self.squeeze_norm = self._norm(hidden)
        self.expand = self._layer(hidden, self.out_channels, bias=False)
        self.expand_norm = self._norm(self.out_channels)
        self.fan_out = self._layer(
            self.out_channels,
            self.out_channels * maps,
            groups=self.out_channels,
        )
        self.gate = None
        if activation is not None:
            self.gate = build_gate(
                activation, self.in_channels, self.norm_cfg, **self.factory
            )

    def _layers(self) -> WeightAttention:
        return WeightAttention(
            conv_norm(self.squeeze, self.squeeze_norm),
            conv_norm(self.expand, self.expand_norm),
            Conv(self.fan_out.weight, self.fan_out.bias, self.fan_out.groups),
        )

    def _forward(self, x: Tensor) -> Tensor:
        gated = None if self.gate is None else self.gate(x)
        return aw_conv2d(x, self._layers(), self.conv, self.window, gated)

    def _attention(self, x: Tensor) -> dict[str, Tensor]:
        gates = {} if self.gate is None else self.gate.attention(x)
        weight = weight_attention(x, self._layers(), self.weight.shape)
        return dict(weight=weight, **gates)

    def _neutral(self) -> float:
        # The sigmoid is 1/2.
        nn.init.zeros_(self.fan_out.weight)
        nn.init.zeros_(self.fan_out.bias)
        return 2 if self.gate is None else 2 / self.gate.neutral()
