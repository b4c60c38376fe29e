"""ResNet whose 3x3 convolutions are attention convolutions."""

import logging
from collections.abc import Sequence

import torch.utils.checkpoint as cp
from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.registry import MODELS
from mmseg.models.backbones import ResNet
from mmseg.models.backbones.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from mmrfa.checkpoints.names import operators_in
from mmrfa.errors import InputError
from mmrfa.models.operators import build_attention_conv, check_operator
from mmrfa.models.weights.pretrained import (
    fetch_weights,
    fill,
    fill_converted,
    pretrained_of,
)


class _PluginsMixin:
    """Plugins of a block, one behind the other."""

    def make_block_plugins(
        self, in_channels: int, plugins: list[dict]
    ) -> list[str]:
        """Make the plugins of one position; their names.

        Raises:
            InputError: a type that is not registered.
        """
        for plugin in plugins:
            kind = plugin.get('type')
            with MODELS.switch_scope_and_registry(None) as registry:
                if isinstance(kind, str) and registry.get(kind) is None:
                    raise InputError(
                        'plugins: expected a registered type, such as '
                        "AttentionBlock with attention_conv=dict(type='"
                        f"RFAConv'), got {kind!r}"
                    )
        # Bound by hand: a BasicBlock is no Bottleneck.
        return Bottleneck.make_block_plugins(self, in_channels, plugins)

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
        # The plain convolution, built first, knows the window and channels.
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
        attention_conv (dict | None): the operator, ``type`` being any
            registered one, other keys its arguments. Its norm follows
            ``norm_cfg`` unless it has its own. It has a bias, as published,
            unless it says ``bias=False``. (A stock ResNet with
            ``dcn=attention_conv`` builds it without, as it does with every
            convolution: the two do not load each other's checkpoints.) None
            gives a plain ResNet.
        stage_with_attention_conv (Sequence[bool] | None): which stages have
            it, one entry per stage. None stands for all.
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
        stage_with_attention_conv: Sequence[bool] | None = None,
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
        chosen = stage_with_attention_conv
        if chosen is None:
            chosen = (True,) * stages
        if len(chosen) != stages:
            raise InputError(
                f'{name}: expected stage_with_attention_conv with {stages} '
                f'entries, one per stage, got {chosen!r}'
            )
        if attention_conv is not None:
            check_operator(attention_conv)
            norm_cfg = kwargs.get('norm_cfg', dict(type='BN'))
            attention_conv = {'norm_cfg': norm_cfg, **attention_conv}
        self._fetched: dict[str, Tensor] | None = None
        # Plain values, read by make_res_layer while the base class builds.
        self.attention_conv = attention_conv
        self.stage_with_attention_conv = tuple(chosen)
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

    def fetch_pretrained(self) -> dict[str, Tensor] | None:
        """Read the pretrained checkpoint, if any, and keep it.

        For checks before a run: :meth:`init_weights` then takes what was
        read instead of reading it again.

        Returns:
            dict[str, Tensor] | None: parameters and buffers by name.

        Raises:
            InputError: the checkpoint cannot be had.
        """
        for cfg in pretrained_of(self)[-1:]:
            self._fetched = fetch_weights(cfg['checkpoint'], cfg.get('prefix'))
        return self._fetched

    def init_weights(self) -> None:
        """Initialise, then fill from the pretrained checkpoint, if any.

        Raises:
            InputError: the checkpoint cannot be had or does not fit.
        """
        pretrained = pretrained_of(self)
        if self.is_init or not pretrained:
            super().init_weights()
            return
        if self._fetched is None:
            self.fetch_pretrained()
        state, self._fetched = self._fetched, None
        kind, source = (pretrained[-1][key] for key in ('type', 'checkpoint'))
        wanted = self.init_cfg
        cfgs = [wanted] if isinstance(wanted, dict) else wanted
        self.init_cfg = [cfg for cfg in cfgs if cfg not in pretrained]
        try:
            super().init_weights()
        finally:
            self.init_cfg = wanted
        if kind == 'PretrainedResNet':
            fill_converted(self, state, source)
        else:
            self._warn_of_frozen_operators(fill(self, state, source))
        if hasattr(self, '_params_init_info'):
            update_init_info(self, f'{kind} from {source}')

    def train(self, mode: bool = True) -> 'RFAResNet':
        """Set the mode, keeping frozen what shall be; return self.

        mmseg's own returns None, which breaks ``net.eval()(x)``.
        """
        super().train(mode)
        return self

    def _warn_of_frozen_operators(self, left: set[str]) -> None:
        """An operator that is neither filled nor trained stays random."""
        frozen = tuple(f'layer{i + 1}.' for i in range(self.frozen_stages))
        for name, operator in operators_in(self).items():
            if name.startswith(frozen) and f'{name}.weight' in left:
                print_log(
                    f'frozen_stages={self.frozen_stages} keeps {name} '
                    f'({type(operator).__name__}) at its random initial '
                    'value: leave the stage out of '
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
