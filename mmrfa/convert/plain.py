"""Checkpoints of ordinary ResNets as a lossless start of RFAResNet."""

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmrfa.convert.depth import find_depth
from mmrfa.convert.identity import start_from_conv
from mmrfa.convert.moments import estimate
from mmrfa.convert.report import Report
from mmrfa.errors import InputError
from mmrfa.layers import AttentionConv2d

if TYPE_CHECKING:
    from mmrfa.models import RFAResNet

_STAGE = re.compile(r'layer(\d)\.')
_CONV_MODULE = re.compile(r'stem\.(\d)\.(conv|bn)\.')


def find_prefix(state: dict[str, Tensor], source: str) -> str:
    """Find what stands before the names of the backbone.

    Args:
        state (dict[str, Tensor]): parameters of a ResNet, or of a network
            with one in it.
        source (str): where they come from, for the error message.

    Returns:
        str: for instance '' (torchvision) or 'backbone.'.

    Raises:
        InputError: no ResNet in it, or several.
    """
    heads = {
        key.partition('layer1.0.')[0] for key in state if 'layer1.0.' in key
    }
    found = sorted(head for head in heads if not head or head.endswith('.'))
    if len(found) != 1:
        raise InputError(
            f'checkpoint {source}: expected the names of one ResNet '
            '(layer1.0. ...), found '
            + (
                f'them behind {", ".join(map(repr, found))}'
                if found
                else f'none (first name: {next(iter(state))!r})'
            )
        )
    return found[0]


def plain_names(state: dict[str, Tensor], prefix: str) -> dict[str, str]:
    """Translate the names of a backbone.

    Args:
        state (dict[str, Tensor]): names of torchvision, MMSegmentation,
            MMDetection or MMPretrain (which numbers the stem of V1c in
            another way).
        prefix (str): what stands before them.

    Returns:
        dict[str, str]: our name by the name in ``state``, of the backbone
        only.
    """
    names = {}
    for key in state:
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        module = _CONV_MODULE.match(name)
        if module:
            index = 3 * int(module[1]) + (module[2] == 'bn')
            name = f'stem.{index}.{name[module.end() :]}'
        if name.startswith(('conv1.', 'bn1.', 'gn1.', 'stem.', 'layer')):
            names[key] = name
    return names


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
    net: 'RFAResNet', state: dict[str, Tensor], source: str
) -> Report:
    """Start from an ordinary ResNet, with unchanged features in eval mode.

    See :mod:`mmrfa.convert.identity` for what the operators become. For
    training mode, the batch norms inside them are set by
    :func:`mmrfa.convert.moments.estimate`.

    Args:
        net (RFAResNet): initialised; changed in place once all fits.
        state (dict[str, Tensor]): parameters of an ordinary ResNet, see
            :func:`plain_names`; anything outside of the backbone is dropped.
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
    operators = {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, AttentionConv2d)
    }
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
        factor = start_from_conv(operator, values.pop(f'{name}.weight'))
        del report.missing[f'{name}.conv.weight']
        report.converted[origin[f'{name}.weight']] = (
            f'{name}.conv.weight, times {factor} in {type(operator).__name__}'
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
    for name, value in values.items():
        if name not in wanted:
            why = 'no such name in an ordinary ResNet'
            if re.match(r'layer\d\.\d+\.conv\d\..*\.', name):
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
