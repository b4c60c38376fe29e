"""RFAConv as a module."""

from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.layers.base import AttentionConv2d
from mmrfa.layers.norm import check_whole
from mmrfa.layers.parts import conv_norm
from mmrfa.ops import receptive_field, rfa_conv2d, rfa_unfold_conv2d
from mmrfa.ops.rfa.reference import tap_weights, unfold_tap_weights


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

    def __init__(self, *args, mode: str = 'group', **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if mode not in ('group', 'unfold'):
            raise InputError(
                f"RFAConv: mode must be 'group' or 'unfold', got {mode!r}"
            )
        self.mode = mode
        channels, taps = self.in_channels, self.taps
        if mode == 'group':
            self.attn = self._layer(
                channels, channels * taps, groups=channels, bias=False
            )
            self.feature = self._feature_layer()
        else:
            self.attn = self._layer(
                channels * taps, channels * taps, groups=channels
            )
        self.norm = self._norm(channels * taps)

    @property
    def feature_norm(self) -> nn.Module | None:
        """The norm behind the features; that of 'unfold' is of scores."""
        return self.norm if self.mode == 'group' else None

    def _forward(self, x: Tensor) -> Tensor:
        if self.mode == 'unfold':
            attn = conv_norm(self.attn, self.norm)
            return rfa_unfold_conv2d(x, attn, self.conv, self.window)
        feature = conv_norm(self.feature, self.norm)
        return rfa_conv2d(x, self.attn.weight, feature, self.conv, self.window)

    def _attention(self, x: Tensor) -> dict[str, Tensor]:
        if self.mode == 'unfold':
            field = receptive_field(x, self.window)
            attn = conv_norm(self.attn, self.norm)
            return dict(taps=unfold_tap_weights(field, attn))
        return dict(taps=tap_weights(x, self.attn.weight, self.window))

    def _neutral(self) -> float:
        # The softmax of equal scores is 1 / K; in training mode too.
        if self.mode == 'unfold':
            check_whole(self.norm)
            nn.init.zeros_(self.norm.weight)
            nn.init.zeros_(self.norm.bias)
        else:
            nn.init.zeros_(self.attn.weight)
        return self.taps
