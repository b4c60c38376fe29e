"""Checkpoints of ordinary ResNets as a lossless start of RFAResNet."""

import re

import torch
from torch import Tensor, nn

from mmrfa.checkpoints.names import (
    find_depth,
    find_prefix,
    operators_in,
    plain_names,
)
from mmrfa.checkpoints.report import Report
from mmrfa.errors import InputError
from mmrfa.models.weights.moments import estimate

_STAGE = re.compile(r'layer(\d)\.')
_PART = re.compile(r'(layer\d\.\d+\.conv\d)\.(.+\.)?')


def network_settings(state: dict[str, Tensor], source: str) -> dict:
    """Find which ResNet a checkpoint holds.

    Args:
        state (dict[str, Tensor]): its parameters.
        source (str): where they come from, for the error message.

    Returns:
        dict: ``depth``, ``deep_stem`` (V1c and V1d) and ``avg_down`` (V1d),
        arguments of ``RFAResNet``.

    Raises:
        InputError: no ResNet of a known depth.
    """
    names = plain_names(state, find_prefix(state, source)).values()
    return dict(
        depth=find_depth(names, source),
        deep_stem=any(name.startswith('stem.') for name in names),
        avg_down='layer2.0.downsample.2.weight' in names,
    )


def fill_from_plain(
    net: nn.Module, state: dict[str, Tensor], source: str
) -> Report:
    """Start from an ordinary ResNet, with unchanged features in eval mode.

    The operators start as :meth:`mmrfa.layers.AttentionConv2d.start_as_conv`
    says. For training mode, the batch norms inside them are set by
    :func:`mmrfa.models.weights.moments.estimate`.

    Args:
        net (nn.Module): an ``RFAResNet``, initialised; changed in place once
            all fits.
        state (dict[str, Tensor]): parameters of an ordinary ResNet, with
            the names that :func:`~mmrfa.checkpoints.names.plain_names`
            knows; anything outside of the backbone is dropped.
        source (str): where they come from, for messages.

    Returns:
        Report: what became of every name.

    Raises:
        InputError: another depth or stem, a name or a shape that does not
            fit, or a network that has operators already.
    """
    settings = network_settings(state, source)
    for key, kind in (
        ('depth', 'a ResNet of depth'),
        ('deep_stem', 'the stem of V1c (deep_stem)'),
        ('avg_down', 'the shortcuts of V1d (avg_down)'),
    ):
        if settings[key] != getattr(net, key):
            raise InputError(
                f'checkpoint {source}: expected {kind} {getattr(net, key)}, '
                f'got {settings[key]}'
            )
    report, values, origin = Report(), {}, {}
    names = plain_names(state, find_prefix(state, source))
    for key, value in state.items():
        name = names.get(key)
        stage = _STAGE.match(name or '')
        if name is None:
            report.dropped[key] = 'not in the backbone'
        elif stage and int(stage[1]) > len(net.res_layers):
            report.dropped[key] = 'a stage that the network does not have'
        else:
            values[name], origin[name] = value, key

    wanted = net.state_dict()
    operators = operators_in(net)
    own = [
        key
        for key in wanted
        if key.startswith(tuple(f'{name}.' for name in operators))
    ]
    for key in own:
        del wanted[key]
    wanted |= {f'{name}.weight': op.weight for name, op in operators.items()}
    _check(values, wanted, origin, source)

    for key in wanted.keys() - values.keys():
        values[key] = torch.zeros_like(wanted[key])
        report.missing[key] = 'a batch counter, set to 0'
    report.converted = {old: name for name, old in origin.items()}
    report.missing |= dict.fromkeys(
        own, 'of the operator, set so that the features stay'
    )
    for name, operator in operators.items():
        factor = operator.start_as_conv(values.pop(f'{name}.weight'))
        del report.missing[f'{name}.weight']
        report.converted[origin[f'{name}.weight']] = (
            f'{name}.weight, times {factor:g} in {type(operator).__name__}'
        )
    net.load_state_dict(values, strict=False)
    estimate(net)
    return report


def _check(
    values: dict[str, Tensor],
    wanted: dict[str, Tensor],
    origin: dict[str, str],
    source: str,
) -> None:
    """Raise unless the names and shapes are those of the plain network."""
    # Where a convolution has parts, it is none.
    taken = {m[1] for name in values if (m := _PART.match(name)) and m[2]}
    for name, value in values.items():
        if name not in wanted:
            why = 'no such name in an ordinary ResNet'
            if name.rpartition('.')[0].startswith(tuple(taken)):
                why = (
                    'it has an operator there already: init_cfg of type '
                    'Pretrained takes it (for the checkpoints of the RFAConv '
                    'authors, behind rfaconv_to_mmrfa.py)'
                )
            raise InputError(f'checkpoint {source}: got {origin[name]}, {why}')
        if value.shape != wanted[name].shape:
            raise InputError(
                f'checkpoint {source}: expected {origin[name]} of shape '
                f'{tuple(wanted[name].shape)}, got {tuple(value.shape)}'
            )
    missing = [
        name
        for name in wanted
        if name not in values and not name.endswith('num_batches_tracked')
    ]
    if missing:
        more = f' and {len(missing) - 3} more' if missing[3:] else ''
        raise InputError(
            f'checkpoint {source}: expected an ordinary ResNet, it lacks '
            f'{", ".join(missing[:3])}{more}'
        )
