"""Activation attention as modules that keep the shape of their input.

The baselines are one of these in front of a convolution; AWConv can be
combined with each.
"""

from math import prod

from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.layers.norm import build_norm
from mmrfa.layers.parts import AttentionLayer, conv_norm
from mmrfa.ops import (
    Conv,
    CoordinateGates,
    channel_gate,
    coordinate_gates,
    spatial_gate,
)


class Gate(nn.Module):
    """Base of the gates: weighs its input by the product of its attention."""

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """What the gate weighs ``x`` (N, C, H, W) by.

        Returns:
            dict[str, Tensor]: in order of their use, each broadcastable to
            (N, C, H, W), values in (0, 1).
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x`` (N, C, H, W); same shape."""
        for weight in self.attention(x).values():
            x = x * weight
        return x


class ChannelGate(Gate):
    """Channel attention, ``x * sigmoid(MLP(avg x) [+ MLP(max x)])``.

    Args:
        channels (int): C.
        reduction (int): C / hidden width of the MLP; the width is at least 1.
            Defaults to 16.
        max_pool (bool): True as in CBAM, False as in SE. Defaults to True.
        device, dtype: as in ``nn.Conv2d``.

    See :func:`mmrfa.ops.channel_gate`.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        max_pool: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        factory = dict(bias=False, device=device, dtype=dtype)
        self.squeeze = AttentionLayer(channels, hidden, 1, **factory)
        self.expand = AttentionLayer(hidden, channels, 1, **factory)
        self.max_pool = max_pool

    def neutral(self) -> float:
        """Make the gate the same everywhere; by how much it multiplies."""
        nn.init.zeros_(self.expand.weight)
        return 0.5

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """``channels`` (N, C, 1, 1)."""
        layers = self.squeeze.weight, self.expand.weight
        return dict(channels=channel_gate(x, *layers, self.max_pool))


class SpatialGate(Gate):
    """Spatial attention, ``x * sigmoid(conv([max_c x ; mean_c x]))``.

    Args:
        kernel_size (int): of the convolution, odd. Defaults to 7.
        device, dtype: as in ``nn.Conv2d``.

    See :func:`mmrfa.ops.spatial_gate`.
    """

    def __init__(self, kernel_size: int = 7, device=None, dtype=None) -> None:
        super().__init__()
        self.conv = AttentionLayer(
            2,
            1,
            kernel_size,
            padding=kernel_size // 2,
            bias=False,
            device=device,
            dtype=dtype,
        )

    def neutral(self) -> float:
        """Make the gate the same everywhere; by how much it multiplies."""
        nn.init.zeros_(self.conv.weight)
        return 0.5

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """``pixels`` (N, 1, H, W)."""
        return dict(pixels=spatial_gate(x, self.conv.weight))


class CoordinateGate(Gate):
    """Coordinate attention, ``x * a_h * a_w``.

    Args:
        channels (int): C.
        reduction (int): C / hidden width. Defaults to 32.
        min_width (int): least hidden width. Defaults to 8.
        norm_cfg (dict | None): batch norm, OpenMMLab's form. None is BN.
        device, dtype: as in ``nn.Conv2d``.

    See :func:`mmrfa.ops.coordinate_gates`.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 32,
        min_width: int = 8,
        norm_cfg: dict | None = None,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        hidden = max(min_width, channels // reduction)
        factory = dict(device=device, dtype=dtype)
        self.squeeze = AttentionLayer(channels, hidden, 1, **factory)
        self.norm = build_norm(hidden, norm_cfg, **factory)
        self.expand_h = AttentionLayer(hidden, channels, 1, **factory)
        self.expand_w = AttentionLayer(hidden, channels, 1, **factory)

    def neutral(self) -> float:
        """Make the gates the same everywhere; by how much they multiply."""
        for layer in (self.expand_h, self.expand_w):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return 0.25

    def layers(self) -> CoordinateGates:
        """What ``coordinate_gates`` takes."""
        return CoordinateGates(
            conv_norm(self.squeeze, self.norm),
            Conv(self.expand_h.weight, self.expand_h.bias),
            Conv(self.expand_w.weight, self.expand_w.bias),
        )

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """``rows`` (N, C, H, 1) and ``columns`` (N, C, 1, W)."""
        rows, columns = coordinate_gates(x, self.layers())
        return dict(rows=rows, columns=columns)


class GateChain(nn.Sequential):
    """Several gates, one behind the other."""

    def neutral(self) -> float:
        """Make all gates the same everywhere; by how much they multiply."""
        return prod(gate.neutral() for gate in self)

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        """What all gates weigh by; each sees what the one before gives."""
        found = {}
        for gate in self:
            weights = gate.attention(x)
            for weight in weights.values():
                x = x * weight
            found |= weights
        return found


# Activation attention by the name that configs use.
ACTIVATION_ATTENTION = ('se', 'cam', 'cbam', 'ca')


def build_gate(
    name: str, channels: int, norm_cfg: dict | None, device, dtype
) -> nn.Module:
    """Build activation attention by name.

    Args:
        name (str): 'se' (squeeze and excitation), 'cam' (channel attention
            with average and maximum), 'cbam' (that and spatial attention) or
            'ca' (coordinate attention).
        channels (int): C.
        norm_cfg (dict | None): batch norm of 'ca'.
        device, dtype: as in ``nn.Conv2d``.

    Raises:
        InputError: another name.
    """
    factory = dict(device=device, dtype=dtype)
    if name == 'se':
        return ChannelGate(channels, max_pool=False, **factory)
    if name == 'cam':
        return ChannelGate(channels, **factory)
    if name == 'cbam':
        return GateChain(
            ChannelGate(channels, **factory), SpatialGate(**factory)
        )
    if name == 'ca':
        return CoordinateGate(channels, norm_cfg=norm_cfg, **factory)
    raise InputError(
        'activation attention: expected one of '
        f'{", ".join(ACTIVATION_ATTENTION)}, got {name!r}'
    )
