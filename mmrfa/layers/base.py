"""What the operators share as modules: the contract of nn.Conv2d."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmrfa.errors import InputError
from mmrfa.layers.norm import build_norm, check_whole, set_moments
from mmrfa.layers.parts import AttentionLayer
from mmrfa.ops import Conv, Window

IntOrPair = int | Sequence[int]
# How the attention starts.
STARTS = 'published', 'neutral'


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _then_start(init: Callable[..., None]) -> Callable[..., None]:
    """Start the attention once the outermost constructor has made it all."""

    @functools.wraps(init)
    def init_and_start(self: 'AttentionConv2d', *args, **kwargs) -> None:
        # nn.Module takes attributes only once its own constructor has run.
        outermost = '_constructing' not in vars(self)
        vars(self)['_constructing'] = True
        init(self, *args, **kwargs)
        if outermost:
            del self._constructing
            self._start_attention()

    return init_and_start


class AttentionConv2d(nn.Module):
    """Base of all operators: arguments, checks and attributes of nn.Conv2d.

    A subclass adds its attention and implements ``_forward``; where that is,
    at some values of its parameters, a plain convolution up to a factor, also
    ``_neutral``. The weighted sum over the window has ``weight``, of shape
    (out_channels, in_channels / groups, kh, kw), and ``bias``, as
    ``nn.Conv2d`` has them.

    Attributes:
        feature_norm (nn.Module | None): batch norm behind the learned
            features of the receptive field, for operators that have them.

    Args:
        in_channels (int): C, channels of the input.
        out_channels (int): O, channels of the output.
        kernel_size (int | tuple[int, int]): (kh, kw), in pixels.
        stride (int | tuple[int, int]): in pixels. Defaults to 1.
        padding (int | tuple[int, int] | str): zeros added on both sides, in
            pixels, or 'valid' or 'same' as in ``nn.Conv2d``. Defaults to 0.
        dilation (int | tuple[int, int]): spacing of the taps. Defaults to 1.
        groups (int): groups of the weighted sum. Defaults to 1.
        bias (bool): whether there is a bias. Defaults to True.
        padding_mode (str): 'zeros'; nothing else is defined.
        device, dtype: as in ``nn.Conv2d``.
        norm_cfg (dict | None): batch norm inside the operator, in OpenMMLab's
            form with type BN or SyncBN; without effect where an operator has
            none (CAMConv, CBAMConv). Keyword only. None stands for BN.
        start (str): of the attention. 'published': its layers as torch draws
            them, so that it is uneven before anything was learned.
            'neutral': the same everywhere, gates 1/2 and softmax 1 / K, all
            else as published. Keyword only. Defaults to 'published'.

    Raises:
        InputError: a size below 1, channels that ``groups`` does not divide,
            or another value that ``nn.Conv2d`` would refuse; an unknown
            start, or a neutral one of an operator without ``_neutral``.
    """

    transposed = False
    output_padding = (0, 0)
    feature_norm: nn.Module | None = None
    _version = 2  # 1: weight and bias were those of a child named conv

    def __init_subclass__(cls, **kwargs) -> None:
        """Show all arguments in the signature, those of nn.Conv2d first."""
        super().__init_subclass__(**kwargs)
        if '__init__' in vars(cls):
            cls.__init__ = _then_start(cls.__init__)
        signatures = [
            inspect.signature(owner.__init__).parameters.values()
            for owner in reversed(cls.__mro__)
            if issubclass(owner, AttentionConv2d)
        ]
        every = {
            p.name: p
            for parameters in signatures
            for p in parameters
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
        del every['self']
        cls.__signature__ = inspect.Signature(
            sorted(every.values(), key=lambda p: p.kind)
        )

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
        start: str = STARTS[0],
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for key, value in (
            ('groups', groups),
            ('in_channels', in_channels),
            ('out_channels', out_channels),
        ):
            self._check_count(key, value)
            if value % groups:
                raise InputError(
                    f'{name}: {key} must be divisible by groups={groups}, '
                    f'got {value}'
                )
        if padding_mode != 'zeros':
            raise InputError(
                f"{name}: padding_mode must be 'zeros', got {padding_mode!r}"
            )
        if start not in STARTS:
            raise InputError(
                f'{name}: start must be one of {", ".join(STARTS)}, got '
                f'{start!r}'
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
        self.start = start
        factory = dict(device=device, dtype=dtype)
        shape = out_channels, in_channels // groups, *self.kernel_size
        self.weight = nn.Parameter(torch.empty(shape, **factory))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, **factory))
        else:
            self.register_parameter('bias', None)
        self._reset_conv()

    def __setattr__(self, name: str, value: object) -> None:
        """As of ``nn.Module``, which would hide a child behind a property."""
        found = getattr(type(self), name, None)
        if isinstance(found, property) and found.fset is None:
            raise InputError(
                f'{type(self).__name__}: expected another name than {name}, '
                'which is a property'
            )
        super().__setattr__(name, value)

    @property
    def taps(self) -> int:
        """K, number of taps of the kernel."""
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def factory(self) -> dict:
        """Device and dtype for further parameters."""
        return dict(device=self.weight.device, dtype=self.weight.dtype)

    @property
    def window(self) -> Window:
        """Where the taps lie."""
        return Window(
            self.kernel_size, self.stride, self.padding, self.dilation
        )

    @property
    def conv(self) -> Conv:
        """The weighted sum over the window, as ``mmrfa.ops`` takes it."""
        return Conv(self.weight, self.bias, self.groups)

    def _layer(
        self, in_channels: int, out_channels: int, kernel_size=1, **kwargs
    ) -> nn.Conv2d:
        """Make a convolution of the attention."""
        return AttentionLayer(
            in_channels,
            out_channels,
            kernel_size,
            **kwargs,
            **self.factory,
        )

    def _feature_layer(self) -> nn.Conv2d:
        """Make the grouped convolution of the receptive-field features."""
        return self._layer(
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

    def _attention(self, x: Tensor) -> dict[str, Tensor]:
        """Give what the operator weighs a checked (N, C, H, W) input by."""
        raise InputError(
            f'{type(self).__name__}: what it weighs by is not told'
        )

    def _neutral(self) -> float:
        """Make the attention the same everywhere, in place.

        Returns:
            float: by how much it then divides the weighted sum.
        """
        raise InputError(
            f'{type(self).__name__}: no start from a plain convolution known, '
            'nor a neutral one'
        )

    def _start_attention(self) -> None:
        """Go from what torch draws for the attention to its start."""
        if self.start == 'neutral':
            self._check_own('a neutral start')
            self._neutral()

    def forward(self, input: Tensor) -> Tensor:
        """Run the operator.

        Args:
            input (Tensor): (N, C, H, W) or (C, H, W); named as that of
                ``nn.Conv2d`` is.

        Returns:
            Tensor: (N, O, Ho, Wo) or (O, Ho, Wo), as ``nn.Conv2d`` gives.

        Raises:
            InputError: wrong number of dimensions or channels, or an input
                smaller than the dilated kernel.
        """
        return run(self, input)

    @torch.no_grad()
    def attention(self, input: Tensor) -> dict[str, Tensor]:
        """Tell what the operator weighs by, from its reference equations.

        Of an operator this is one or more of:

        - per tap of every window, broadcastable to (N, C, K, Ho, Wo); the
          product weighs the features (RFAConv's ``unfold``: the pixels) in
          the window. ``taps``: RFAConv (N, C, K, Ho, Wo), of sum 1 over K,
          RFCBAMConv (N, 1, K, Ho, Wo), beside ``channels`` (N, C, 1, 1, 1).
          RFCAConv: ``rows`` (N, C, K, Ho, 1), ``columns`` (N, C, K, 1, Wo).
        - per pixel of the input, broadcastable to (N, C, H, W); the product
          weighs the input. CAMConv: ``channels`` (N, C, 1, 1). CBAMConv:
          that and ``pixels`` (N, 1, H, W). CAConv: ``rows`` (N, C, H, 1) and
          ``columns`` (N, C, 1, W). AWConv: those of its activation attention.
        - per element of the weight. AWConv: ``weight``
          (N, O, C / groups, kh, kw).

        Taps are in row-major order; all values but those of a softmax are
        sigmoids, in (0, 1). In training mode the running statistics of norms
        that it depends on move, as in ``forward``.

        Args:
            input (Tensor): (N, C, H, W) or (C, H, W), which stands for
                N = 1.

        Returns:
            dict[str, Tensor]: by what it is a weight of, as listed.

        Raises:
            InputError: an input that ``forward`` refuses, or an operator
                that does not tell.
        """
        x = input.unsqueeze(0) if input.dim() == 3 else input
        self._check_input(x)
        return self._attention(x)

    @torch.no_grad()
    def start_as_conv(
        self, weight: Tensor, bias: Tensor | None = None, floor: float = 0.0
    ) -> float:
        """Make the operator compute what a plain convolution computes.

        In eval mode exactly, up to rounding. RFAConv, RFCBAMConv and RFCAConv
        have a ReLU behind their features: with the identity as features, what
        they see is unchanged where no input lies below ``-floor``.

        Args:
            weight (Tensor): (O, C / groups, kh, kw), of the convolution.
            bias (Tensor | None): (O,).
            floor (float): c, no input is below -c. Then the features carry c
                more, which the bias takes off again. 0 behind a ReLU; of no
                effect for operators without learned features. Defaults to 0.

        Returns:
            float: what the weight was multiplied by.

        Raises:
            InputError: the weight or the bias has another shape, the floor
                is negative or not finite, there is no bias to take ``bias``
                or the floor up, a norm was folded or lacks a part, a weight
                is pruned or parametrised, or no such start is known. Nothing
                was changed.
        """
        name = type(self).__name__
        if weight.shape != self.weight.shape:
            raise InputError(
                f'{name}: expected a weight of shape '
                f'{tuple(self.weight.shape)}, got {tuple(weight.shape)}'
            )
        if self.feature_norm is None:
            floor = 0.0
        if self.bias is None and (bias is not None or floor):
            raise InputError(
                f'{name}: expected no bias and no floor, as bias=False, got '
                f'{"a bias" if bias is not None else f"floor={floor}"}'
            )
        if bias is not None and bias.shape != self.bias.shape:
            raise InputError(
                f'{name}: expected a bias of shape {tuple(self.bias.shape)}, '
                f'got {tuple(bias.shape)}'
            )
        if not 0 <= floor < math.inf:
            raise InputError(
                f'{name}: expected a floor of 0 or more, got {floor}'
            )
        norm = self.feature_norm
        if norm is not None:
            check_whole(norm)
        self._check_own('start_as_conv')
        shift = floor * weight.sum((1, 2, 3))  # it may be our own weight
        factor = self._neutral()
        if norm is not None:
            taps = torch.eye(self.taps).view(-1, 1, *self.kernel_size)
            self.feature.weight.copy_(taps.repeat(self.in_channels, 1, 1, 1))
            set_moments(norm, 0, 1 - norm.eps)
            norm.bias.fill_(floor)
        self.weight.copy_(weight * factor)
        if self.bias is not None:
            self.bias.copy_(0 if bias is None else bias)
            self.bias.sub_(shift)
        return factor

    def fold_norms(self) -> 'AttentionConv2d':
        """Fold every batch norm into the convolution before it, in place.

        For deployment: the output stays the same up to rounding, each norm
        becomes ``nn.Identity``. Eval mode needs no folding for speed, the
        faster forms do it on the fly; folding makes exported programs and
        checkpoints smaller. Whole OpenMMLab models: MMCV's ``fuse_conv_bn``
        folds these norms too.

        Returns:
            AttentionConv2d: self.

        Raises:
            InputError: the operator or a norm is in training mode, a norm
                has no running statistics, or a weight is pruned or
                parametrised.
        """
        if self.training:
            raise InputError(
                f'{type(self).__name__}: fold_norms needs eval mode, got '
                'training mode'
            )
        self._check_own('fold_norms')
        for parent in list(self.modules()):
            before = None
            for key, child in list(parent.named_children()):
                if isinstance(child, _BatchNorm):
                    if child.running_mean is None:
                        raise InputError(
                            f'{type(self).__name__}: fold_norms needs running '
                            f'statistics, {key} has none'
                        )
                    if child.training:
                        raise InputError(
                            f'{type(self).__name__}: fold_norms needs eval '
                            f'mode, got {key} in training mode'
                        )
                    name, conv = before
                    fused = fuse_conv_bn_eval(conv, child)
                    setattr(parent, name, fused)
                    setattr(parent, key, nn.Identity())
                elif isinstance(child, nn.Conv2d):
                    before = key, child
        return self

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as the constructor does.

        The weight by He's normal initialisation (fan out) and the bias at
        zero, which OpenMMLab and torchvision give the convolutions of their
        networks (``nn.Conv2d``'s own draw is narrower); the attention as
        ``start`` says.
        """
        self._reset_conv()
        for module in self.modules():
            if module is not self and hasattr(module, 'reset_parameters'):
                module.reset_parameters()
        self._start_attention()

    def init_weights(self) -> None:
        """Do what :meth:`reset_parameters` does; OpenMMLab's name for it."""
        self.reset_parameters()

    def _reset_conv(self) -> None:
        nn.init.kaiming_normal_(
            self.weight, mode='fan_out', nonlinearity='relu'
        )
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """Arguments in the order of ``nn.Conv2d``."""
        return (
            f'{self.in_channels}, {self.out_channels}, '
            f'kernel_size={self.kernel_size}, stride={self.stride}, '
            f'padding={self.padding}, dilation={self.dilation}, '
            f'groups={self.groups}, bias={self.bias is not None}'
            + ('' if self.start == STARTS[0] else f', start={self.start}')
        )

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ) -> None:
        """Load, also from former names, but never a plain convolution.

        That has a weight of the same name and shape, for which the operator
        computes something else; :meth:`start_as_conv` starts from it.
        """
        sums = 'weight', 'bias'
        for name in sums:
            former = f'{prefix}conv.{name}'
            if former in state_dict:
                state_dict[prefix + name] = state_dict.pop(former)
        attention = [key for key in self.state_dict() if key not in sums]
        if attention and not any(prefix + k in state_dict for k in attention):
            for name in sums:
                if state_dict.pop(prefix + name, None) is not None and strict:
                    unexpected.append(prefix + name)
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )

    def _check_own(self, what: str) -> None:
        """Make sure that what is written into parameters stays there."""
        for name, module in self.named_modules():
            for key in ('weight', 'bias'):
                if hasattr(module, key) and key not in module._parameters:
                    raise InputError(
                        f'{type(self).__name__}: {what} needs parameters of '
                        f'its own, got {f"{name}.{key}".lstrip(".")}, which '
                        'pruning or a parametrization computes; do it before'
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

    def _check_count(self, key: str, value: int) -> None:
        if not _is_int(value) or value < 1:
            raise InputError(
                f'{type(self).__name__}: {key} must be an integer of at '
                f'least 1, got {value!r}'
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


@torch.fx.wrap
def run(operator: AttentionConv2d, x: Tensor) -> Tensor:
    """Check the input and run an operator; one node in a graph of torch.fx."""
    if x.dim() == 3:
        return run(operator, x.unsqueeze(0)).squeeze(0)
    operator._check_input(x)
    return operator._forward(x)
