"""ResNet whose 3x3 convolutions are attention convolutions."""

import inspect
import logging
from collections.abc import Sequence

import torch.utils.checkpoint as cp
from mmcv.cnn import build_conv_layer
from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.registry import MODELS
from mmseg.models.backbones import ResNet
from mmseg.models.backbones.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS, AttentionConv2d
from mmrfa.models.pretrained import (
    PRETRAINED,
    fetch_weights,
    fill,
    fill_converted,
)


def build_attention_conv(cfg: dict, replaced: nn.Conv2d) -> AttentionConv2d:
    """Build the operator that takes the place of a convolution.

    Args:
        cfg (dict): ``type`` and arguments of the operator.
        replaced (nn.Conv2d): gives channels, kernel, stride, padding,
            dilation and groups.

    Returns:
        AttentionConv2d: its last convolution has a bias, as published, also
        where a norm layer follows, unless ``cfg`` says ``bias=False``.
    """
    return build_conv_layer(
        {'bias': True, **cfg},
        replaced.in_channels,
        replaced.out_channels,
        replaced.kernel_size,
        stride=replaced.stride,
        padding=replaced.padding,
        dilation=replaced.dilation,
        groups=replaced.groups,
    )


class _PluginsMixin:
    """Plugins of a block, one behind the other."""

    make_block_plugins = Bottleneck.make_block_plugins

    def forward_plugin(self, x: Tensor, plugin_names: list[str]) -> Tensor:
        """Run the plugins of one position in turn.

        mmseg's own gives every plugin the same input and keeps the last
        output, so that of two plugins only one has an effect.
        """
        for name in plugin_names:
            x = getattr(self, name)(x)
        return x


class RFABasicBlock(_PluginsMixin, BasicBlock):
    """BasicBlock with an operator as conv1, and plugins.

    Args:
        *args, **kwargs: those of mmseg's BasicBlock.
        attention_conv (dict | None): the operator. None keeps conv1.
        plugins (list[dict] | None): ``cfg`` and ``position`` ('after_conv1',
            behind the activation, or 'after_conv2', before the addition).
    """

    def __init__(
        self,
        *args,
        attention_conv: dict | None = None,
        plugins: list[dict] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        if attention_conv is not None:
            self.conv1 = build_attention_conv(attention_conv, self.conv1)
        self.plugin_names = {'after_conv1': [], 'after_conv2': []}
        for plugin in plugins or []:
            position = plugin['position']
            if position not in self.plugin_names:
                raise InputError(
                    'plugins: expected position after_conv1 or after_conv2 '
                    f'in ResNet-18 and -34, got {position!r}'
                )
            self.plugin_names[position] += self.make_block_plugins(
                self.conv2.out_channels, [plugin['cfg']]
            )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""

        def residual(x: Tensor) -> Tensor:
            out = self.relu(self.norm1(self.conv1(x)))
            out = self.forward_plugin(out, self.plugin_names['after_conv1'])
            out = self.norm2(self.conv2(out))
            out = self.forward_plugin(out, self.plugin_names['after_conv2'])
            identity = x if self.downsample is None else self.downsample(x)
            return out + identity

        if self.with_cp and x.requires_grad:
            return self.relu(cp.checkpoint(residual, x, use_reentrant=False))
        return self.relu(residual(x))


class RFABottleneck(_PluginsMixin, Bottleneck):
    """Bottleneck with an operator as conv2, its 3x3 convolution.

    Args:
        *args, **kwargs: those of mmseg's Bottleneck.
        attention_conv (dict | None): the operator. None keeps conv2.
    """

    def __init__(
        self, *args, attention_conv: dict | None = None, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        if attention_conv is not None:
            self.conv2 = build_attention_conv(attention_conv, self.conv2)


@MODELS.register_module()
class RFAResNet(ResNet):
    """ResNet with attention convolutions in place of 3x3 convolutions.

    As the RFAConv paper (arXiv:2304.03198) places them: in ResNet-18 and -34
    the first 3x3 of every block (conv1), in ResNet-50, -101 and -152 the 3x3
    of every bottleneck (conv2). The authors' published ResNet-50 keeps a
    plain 3x3 there, so it is not what this builds. Parameter names outside
    the operators are torchvision's.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        attention_conv (dict | None): the operator, ``type`` being one of
            RFAConv, RFCBAMConv, RFCAConv, CAMConv, CBAMConv, CAConv, AWConv,
            other keys its arguments. Its norm follows ``norm_cfg`` unless it
            has its own. None gives a plain ResNet.
        stage_with_attention_conv (Sequence[bool]): which stages have it, one
            entry per stage. Defaults to all.
        init_cfg (dict | list[dict] | None): as in mmseg's ResNet. With type
            'Pretrained' the log says what was filled, what was left and what
            was not used. Type 'PretrainedResNet', with the same keys, takes
            the checkpoint of an ordinary ResNet (V1, V1c, V1d) and starts
            the operators as its plain convolutions, with the same features.
        **kwargs: those of mmseg's ``ResNet``: ``strides``, ``dilations``,
            ``contract_dilation``, ``multi_grid``, ``out_indices``,
            ``frozen_stages``, ``norm_cfg``, ``norm_eval``, ``with_cp``,
            ``plugins`` (here for every depth), ...

    Raises:
        InputError: a depth that does not exist, an unknown operator, or a
            wrong number of stages.
    """

    arch_settings = {
        depth: (RFABasicBlock if block is BasicBlock else RFABottleneck, count)
        for depth, (block, count) in ResNet.arch_settings.items()
    }

    def __init__(
        self,
        depth: int,
        attention_conv: dict | None = None,
        stage_with_attention_conv: Sequence[bool] = (True, True, True, True),
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ) -> None:
        name = type(self).__name__
        if depth not in self.arch_settings:
            raise InputError(
                f'{name}: expected depth '
                f'{", ".join(map(str, self.arch_settings))}, got {depth!r}'
            )
        stages = kwargs.get('num_stages', 4)
        if len(stage_with_attention_conv) != stages:
            raise InputError(
                f'{name}: expected stage_with_attention_conv with {stages} '
                f'entries, one per stage, got {stage_with_attention_conv!r}'
            )
        if attention_conv is not None:
            check_operator(attention_conv)
            norm_cfg = kwargs.get('norm_cfg', dict(type='BN'))
            attention_conv = {'norm_cfg': norm_cfg, **attention_conv}
        # Plain values, read by make_res_layer while the base class builds.
        self.attention_conv = attention_conv
        self.stage_with_attention_conv = tuple(stage_with_attention_conv)
        self.zero_init = (
            init_cfg is None
            and kwargs.get('pretrained') is None
            and kwargs.get('zero_init_residual', True)
        )
        super().__init__(depth, init_cfg=init_cfg, **kwargs)

    def make_res_layer(self, **kwargs) -> nn.Module:
        """Build a stage; its index is the number of stages built before."""
        if self.zero_init:
            # The base class does so for its own blocks only.
            last = 'norm2' if kwargs['block'] is RFABasicBlock else 'norm3'
            kwargs['init_cfg'] = dict(
                type='Constant', val=0, override=dict(name=last)
            )
        if self.stage_with_attention_conv[len(self.res_layers)]:
            kwargs['attention_conv'] = self.attention_conv
        return super().make_res_layer(**kwargs)

    def init_weights(self) -> None:
        """Initialise, then fill from the pretrained checkpoint, if any.

        Raises:
            InputError: the checkpoint cannot be had or does not fit.
        """
        wanted = self.init_cfg
        cfgs = [wanted] if isinstance(wanted, dict) else list(wanted or [])
        pretrained = [cfg for cfg in cfgs if cfg['type'] in PRETRAINED]
        if self.is_init or not pretrained:
            super().init_weights()
            return
        kind, source = (pretrained[-1][key] for key in ('type', 'checkpoint'))
        state = fetch_weights(source, pretrained[-1].get('prefix'))
        self.init_cfg = [cfg for cfg in cfgs if cfg['type'] not in PRETRAINED]
        super().init_weights()
        self.init_cfg = wanted
        if kind == 'PretrainedResNet':
            fill_converted(self, state, source)
        else:
            fill(self, state, source)
            self._warn_of_frozen_operators(state)
        if hasattr(self, '_params_init_info'):
            update_init_info(self, f'{kind} from {source}')

    def train(self, mode: bool = True) -> 'RFAResNet':
        """Set the mode, keeping frozen what shall be; return self.

        mmseg's own returns None, which breaks ``net.eval()(x)``.
        """
        super().train(mode)
        return self

    def _warn_of_frozen_operators(self, state: dict[str, Tensor]) -> None:
        """An operator that is neither filled nor trained stays random."""
        for stage in range(1, self.frozen_stages + 1):
            for name, module in getattr(self, f'layer{stage}').named_modules():
                key = f'layer{stage}.{name}.conv.weight'
                if isinstance(module, AttentionConv2d) and key not in state:
                    print_log(
                        f'frozen_stages={self.frozen_stages} keeps '
                        f'layer{stage}.{name} ({type(module).__name__}) at '
                        'its random initial value: leave the stage out of '
                        'stage_with_attention_conv, or do not freeze it',
                        logger='current',
                        level=logging.WARNING,
                    )
                    return


@MODELS.register_module()
class RFAResNetV1c(RFAResNet):
    """RFAResNet with mmseg's V1c stem, three 3x3 convolutions for the 7x7.

    Args:
        depth (int): 18, 34, 50, 101 or 152.
        **kwargs: those of :class:`RFAResNet`.
    """

    def __init__(self, depth: int, **kwargs) -> None:
        super().__init__(depth, deep_stem=True, avg_down=False, **kwargs)


def check_operator(cfg: dict) -> None:
    """Refuse what is no operator of the family.

    Args:
        cfg (dict): value of ``attention_conv``.

    Raises:
        InputError: not a dict, or its ``type`` is another.
    """
    known = ', '.join(operator.__name__ for operator in OPERATORS)
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    if not inspect.isclass(found) or not issubclass(found, AttentionConv2d):
        raise InputError(
            f'attention_conv: expected a dict with type one of {known}, got '
            f'{cfg!r}'
        )
