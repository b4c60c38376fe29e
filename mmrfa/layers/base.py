"""What the convolutions of the family share: the contract of nn.Conv2d."""

from collections.abc import Sequence
from numbers import Integral

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmrfa.errors import InputError
from mmrfa.layers.norm import build_norm

IntOrPair = int | Sequence[int]


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


class AttentionConv2d(nn.Module):
    """Base of all operators: arguments, checks and attributes of nn.Conv2d.

    A subclass adds its attention and implements ``_forward``. The weighted
    sum over the window lives in ``conv``, so ``conv.weight`` has the shape
    (out_channels, in_channels / groups, kh, kw), whatever path computes it.

    Attributes:
        spreads (bool): True where ``conv`` works on the spread receptive
            fields, hence with kernel = stride and no padding.

    Args:
        in_channels (int): C, channels of the input.
        out_channels (int): O, channels of the output.
        kernel_size (int | tuple[int, int]): (kh, kw), in pixels.
        stride (int | tuple[int, int]): in pixels. Defaults to 1.
        padding (int | tuple[int, int] | str): zeros added on both sides, in
            pixels, or 'valid' or 'same' as in ``nn.Conv2d``. Defaults to 0.
        dilation (int | tuple[int, int]): spacing of the taps. Defaults to 1.
        groups (int): groups of the weighted sum. Defaults to 1.
        bias (bool): whether ``conv`` has a bias. Defaults to True.
        padding_mode (str): 'zeros'; nothing else is defined.
        device, dtype: as in ``nn.Conv2d``.
        norm_cfg (dict | None): batch norm inside the operator, in OpenMMLab's
            form with type BN or SyncBN; without effect where an operator has
            none (CAMConv, CBAMConv). Keyword only. None stands for BN.

    Raises:
        InputError: a size below 1, channels that ``groups`` does not divide,
            or another value that ``nn.Conv2d`` would refuse.
    """

    transposed = False
    output_padding = (0, 0)
    spreads = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair | str = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = 'zeros',
        device=None,
        dtype=None,
        *,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for key, value in (
            ('groups', groups),
            ('in_channels', in_channels),
            ('out_channels', out_channels),
        ):
            if not _is_int(value) or value < 1:
                raise InputError(
                    f'{name}: {key} must be an integer of at least 1, '
                    f'got {value!r}'
                )
            if value % groups:
                raise InputError(
                    f'{name}: {key} must be divisible by groups={groups}, '
                    f'got {value}'
                )
        if padding_mode != 'zeros':
            raise InputError(
                f"{name}: padding_mode must be 'zeros', got {padding_mode!r}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = self._pair('kernel_size', kernel_size, 1)
        self.stride = self._pair('stride', stride, 1)
        self.dilation = self._pair('dilation', dilation, 1)
        self.padding = self._padding(padding)
        self.groups = groups
        self.padding_mode = padding_mode
        self.norm_cfg = norm_cfg
        tiled = (self.kernel_size, (0, 0), (1, 1))
        plain = (self.stride, self.padding, self.dilation)
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            self.kernel_size,
            *(tiled if self.spreads else plain),
            groups,
            bias,
            device=device,
            dtype=dtype,
        )

    @property
    def taps(self) -> int:
        """K, number of taps of the kernel."""
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def factory(self) -> dict:
        """Device and dtype for further parameters."""
        return dict(device=self.weight.device, dtype=self.weight.dtype)

    def _conv(
        self, in_channels: int, out_channels: int, kernel_size=1, **kwargs
    ) -> nn.Conv2d:
        """Make a convolution of the attention."""
        return nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            **kwargs,
            **self.factory,
        )

    def _feature_conv(self) -> nn.Conv2d:
        """Make the grouped convolution of the receptive-field features."""
        return self._conv(
            self.in_channels,
            self.in_channels * self.taps,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.in_channels,
            bias=False,
        )

    def _norm(self, num_features: int) -> nn.Module:
        """Make a batch norm of the attention."""
        return build_norm(num_features, self.norm_cfg, **self.factory)

    def _forward(self, x: Tensor) -> Tensor:
        """Compute the operator on a checked (N, C, H, W) input."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """Weight of the last convolution, (O, C / groups, kh, kw)."""
        return self.conv.weight

    @property
    def bias(self) -> Tensor | None:
        """Bias of the last convolution, (O,), or None."""
        return self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Run the operator.

        Args:
            x (Tensor): (N, C, H, W) or (C, H, W).

        Returns:
            Tensor: (N, O, Ho, Wo) or (O, Ho, Wo), as ``nn.Conv2d`` gives.

        Raises:
            InputError: wrong number of dimensions or channels, or an input
                smaller than the dilated kernel.
        """
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        self._check_input(x)
        return self._forward(x)

    def fold_norms(self) -> 'AttentionConv2d':
        """Fold every batch norm into the convolution before it, in place.

        For deployment: the output stays the same up to rounding, each norm
        becomes ``nn.Identity``. Eval mode needs no folding for speed, the
        faster backends do it on the fly; folding makes exported programs and
        checkpoints smaller. Whole OpenMMLab models: MMCV's ``fuse_conv_bn``
        folds these norms too.

        Returns:
            AttentionConv2d: self.

        Raises:
            InputError: the operator is in training mode, or a norm has no
                running statistics.
        """
        if self.training:
            raise InputError(
                f'{type(self).__name__}: fold_norms needs eval mode, got '
                'training mode'
            )
        for parent in list(self.modules()):
            before = None
            for key, child in list(parent.named_children()):
                if isinstance(child, _BatchNorm):
                    if child.running_mean is None:
                        raise InputError(
                            f'{type(self).__name__}: fold_norms needs running '
                            f'statistics, {key} has none'
                        )
                    name, conv = before
                    fused = fuse_conv_bn_eval(conv, child)
                    setattr(parent, name, fused)
                    setattr(parent, key, nn.Identity())
                elif isinstance(child, nn.Conv2d):
                    before = key, child
        return self

    def init_weights(self) -> None:
        """Initialise as OpenMMLab initialises the convolution replaced.

        The last convolution by He's normal initialisation (fan out), its
        bias at zero; the attention as torch initialises such layers.
        """
        for module in self.modules():
            if module is not self and hasattr(module, 'reset_parameters'):
                module.reset_parameters()
        nn.init.kaiming_normal_(
            self.conv.weight, mode='fan_out', nonlinearity='relu'
        )
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def extra_repr(self) -> str:
        """Arguments in the order of ``nn.Conv2d``."""
        return (
            f'{self.in_channels}, {self.out_channels}, '
            f'kernel_size={self.kernel_size}, stride={self.stride}, '
            f'padding={self.padding}, dilation={self.dilation}, '
            f'groups={self.groups}, bias={self.conv.bias is not None}'
        )

    def _check_input(self, x: Tensor) -> None:
        name = type(self).__name__
        if x.dim() != 4 or x.size(1) != self.in_channels:
            raise InputError(
                f'{name}: expected an input of shape (N, {self.in_channels}, '
                f'H, W), got {tuple(x.shape)}'
            )
        padded = [s + 2 * p for s, p in zip(x.shape[2:], self.padding)]
        needed = [
            d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation)
        ]
        if any(have < need for have, need in zip(padded, needed)):
            raise InputError(
                f'{name}: expected a padded input of at least '
                f'{needed[0]}x{needed[1]} pixels (kernel '
                f'{self.kernel_size}, dilation {self.dilation}), got '
                f'{padded[0]}x{padded[1]}'
            )

    def _pair(self, key: str, value: IntOrPair, least: int) -> tuple[int, int]:
        pair = (value, value) if _is_int(value) else value
        if (
            not isinstance(pair, Sequence)
            or isinstance(pair, str)
            or len(pair) != 2
            or not all(_is_int(v) and v >= least for v in pair)
        ):
            raise InputError(
                f'{type(self).__name__}: {key} must be an integer of at '
                f'least {least} or a pair of them, got {value!r}'
            )
        return tuple(pair)

    def _padding(self, value: IntOrPair | str) -> tuple[int, int]:
        if value == 'valid':
            return (0, 0)
        if value != 'same':
            return self._pair('padding', value, 0)
        total = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation)]
        if self.stride != (1, 1) or any(t % 2 for t in total):
            raise InputError(
                f"{type(self).__name__}: padding='same' needs stride 1 and "
                f'an odd dilated kernel, got stride {self.stride}, kernel '
                f'{self.kernel_size}, dilation {self.dilation}'
            )
        return tuple(t // 2 for t in total)
