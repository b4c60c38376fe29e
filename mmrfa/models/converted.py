"""Any registered model, with operators in the place of convolutions."""

from inspect import signature
from types import MethodType

import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import nn

from mmrfa.checkpoints.names import operators_in
from mmrfa.conversion import convert_convs
from mmrfa.errors import InputError
from mmrfa.models.operators import check_operator

Where = int | str | list[str] | None


@MODELS.register_module('Converted')
def build_converted(
    original: str | type,
    attention_conv: dict | None = None,
    where: Where = None,
    exclude: Where = None,
    start: str = 'fresh',
    norm_cfg: dict | None = None,
    sample: int = 128,
    **model,
) -> nn.Module:
    """Build a model of any OpenMMLab package and swap its convolutions.

    A few lines over a config of mmseg, mmdet, mmpretrain or mmyolo::

        model = dict(
            type='Converted',
            original=_base_.model.type,
            attention_conv=dict(type='RFAConv'),
            where='backbone.layer?.*.conv2')

    What is built is the model itself, with nothing around it: all names
    outside of the operators are its own, so its checkpoints fill the rest.

    Args:
        original (str | type): ``type`` of the model, in its own scope.
        attention_conv (dict | None): the operator, ``type`` being any
            registered one, other keys its arguments. None leaves the model
            as it is: the plain twin.
        where, exclude (int | str | list[str] | None): which convolutions:
            a kernel size, or globs over names, see
            :func:`mmrfa.convert_convs`.
        start (str): 'fresh' draws the operators as they draw themselves.
            The others look, when weights are initialised, at the plain model,
            which draws its convolutions by its own rule or takes those of the
            checkpoint that its ``init_cfg`` names. 'plain' gives the
            operators the weights of these, beside their attention as
            published: they differ from a plain twin in nothing else. 'exact'
            makes them compute the same: in eval mode the model computes what
            the plain one does. That takes operators with a bias.
        norm_cfg (dict | None): batch norm inside the operators, unless
            ``attention_conv`` has its own.
        sample (int): side in pixels of the image, noise, on which an exact
            start is checked.
        **model: all other keys of the model.

    Returns:
        nn.Module: a model of type ``original``.

    Raises:
        InputError: an unknown operator or start, a start of the operator,
            nothing to convert, or, unless the start is exact, a convolution
            that is frozen.
    """
    cfg = dict(model, type=original)
    if attention_conv is None:
        return MODELS.build(cfg)
    operator = check_operator(attention_conv)
    arguments = {k: v for k, v in attention_conv.items() if k != 'type'}
    if 'start' in arguments:
        raise InputError(
            'attention_conv.start: expected none, start of the model says how '
            f'converted operators begin, got {arguments["start"]!r}'
        )
    if norm_cfg is not None:
        arguments.setdefault('norm_cfg', norm_cfg)
    if start == 'exact':
        arguments.setdefault('bias', True)
    elif start not in ('fresh', 'plain'):
        raise InputError(
            f"start: expected 'fresh', 'plain' or 'exact', got {start!r}"
        )
    choice = dict(where=where, exclude=exclude, inplace=True, **arguments)

    net = convert_convs(MODELS.build(cfg), operator, start='fresh', **choice)
    if start != 'exact':
        _refuse_frozen(net)
    if start == 'fresh':
        return net
    scope = DefaultScope.get_current_instance().scope_name

    def init_weights(self: nn.Module) -> None:
        """Take the weights of a plain model."""
        with DefaultScope.overwrite_default_scope(scope):
            plain = MODELS.build(cfg)
        plain.init_weights()
        if start == 'plain':
            del self.init_weights  # back to the method of its class
            self.init_weights()
            for name, layer in operators_in(self).items():
                _take_sum(layer, plain.get_submodule(name))
            return
        converted = convert_convs(
            plain,
            operator,
            start='exact',
            sample=_noise(plain, sample),
            **choice,
        )
        self.load_state_dict(converted.state_dict())
        self.is_init = True
        del self.init_weights  # back to the method of its class

    net.init_weights = MethodType(init_weights, net)
    return net


@torch.no_grad()
def _take_sum(operator: nn.Module, conv: nn.Conv2d) -> None:
    """Weigh the window by the weights of a convolution."""
    operator.weight.copy_(conv.weight)
    if operator.bias is not None and conv.bias is not None:
        operator.bias.copy_(conv.bias)


def _noise(net: nn.Module, side: int) -> dict | torch.Tensor:
    """An input of a model, drawn without touching torch's random state."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, side, side, generator=generator)
    if 'data_samples' not in signature(net.forward).parameters:
        return image
    # Detectors of two stages ask for the size of the image.
    sizes = dict.fromkeys(('img_shape', 'batch_input_shape'), (side, side))
    about = BaseDataElement(metainfo=dict(sizes, scale_factor=(1, 1)))
    return dict(inputs=image, data_samples=[about])


def _refuse_frozen(net: nn.Module) -> None:
    """An operator that is neither filled nor trained stays random."""
    for name, operator in operators_in(net).items():
        if not operator.weight.requires_grad:
            raise InputError(
                f'{name} is frozen and would stay random: expected it in '
                "exclude, or start='exact'"
            )
