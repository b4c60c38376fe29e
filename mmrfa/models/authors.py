"""ImageNet checkpoints of the RFAConv paper's authors."""

import torch
from torch import Tensor

from mmrfa.checkpoints.names import BLOCK, find_depth
from mmrfa.checkpoints.report import Report
from mmrfa.errors import InputError
from mmrfa.models.backbones import RFAResNet

# Parts of an operator, by operator: their name and ours.
_GATE = {
    'conv1': 'gate.squeeze',
    'bn1': 'gate.norm',
    'conv_h': 'gate.expand_h',
    'conv_w': 'gate.expand_w',
    'conv.0': '',
}
_FEATURES = {'generate.0': 'feature', 'generate.1': 'norm'}
_RFCBAM = {**_FEATURES, 'get_weight.0': 'spatial', 'conv.0': ''}
PARTS = (
    (
        'RFAConv',
        {
            'get_weight.1': 'attn',
            'generate_feature.0': 'feature',
            'generate_feature.1': 'norm',
            'conv.0': '',
        },
    ),
    # The released training logs say cam where the released code says se.
    ('RFCBAMConv', {**_RFCBAM, 'se.fc.0': 'squeeze', 'se.fc.2': 'expand'}),
    ('RFCBAMConv', {**_RFCBAM, 'cam.fc.0': 'squeeze', 'cam.fc.2': 'expand'}),
    ('RFCAConv', {**_FEATURES, **_GATE}),
    (
        'CAMConv',
        {'mlp.0': 'gate.squeeze', 'mlp.2': 'gate.expand', 'conv.0': ''},
    ),
    (
        'CBAMConv',
        {
            'mlp.0': 'gate.0.squeeze',
            'mlp.2': 'gate.0.expand',
            'spatital': 'gate.1.conv',  # spelled so
            'conv.0': '',
        },
    ),
    ('CAConv', _GATE),
)
# thop leaves these behind, as buffers.
COUNTERS = ('total_ops', 'total_params')


def convert_authors(
    state: dict[str, Tensor], name: str
) -> tuple[dict[str, Tensor], dict, Report]:
    """Rename the parameters of an authors' network to RFAResNet's.

    Args:
        state (dict[str, Tensor]): their names, without ``module.``.
        name (str): of the checkpoint, for error messages.

    Returns:
        tuple[dict[str, Tensor], dict, Report]: all parameters of an
        ``RFAResNet``, its ``depth`` and ``attention_conv``, and what became
        of every name.

    Raises:
        InputError: not such a network: depth, operator, a name or a shape
            does not fit.
    """
    depth = find_depth(state, name)
    slot = 'conv1' if depth < 50 else 'conv2'
    operator, parts = _operator(state, slot, name)
    network = dict(depth=depth, attention_conv=dict(type=operator))
    wanted = RFAResNet(**network).state_dict()

    report, converted = Report(), {}
    for key, value in state.items():
        new = _rename(key, slot, parts)
        if key.rpartition('.')[2] in COUNTERS:
            report.dropped[key] = 'an operation counter, no parameter'
        elif key.startswith('fc.'):
            report.dropped[key] = 'classification head, not in the backbone'
        elif new not in wanted:
            report.dropped[key] = f'no such name in a ResNet-{depth}'
        else:
            shape = tuple(wanted[new].shape)
            if value.dim() == 2:  # a linear layer, here a 1x1 convolution
                value = value[:, :, None, None]
            if tuple(value.shape) != shape:
                raise InputError(
                    f'checkpoint {name}: expected {key} of shape {shape} in '
                    f'a ResNet-{depth} with {operator}, got '
                    f'{tuple(state[key].shape)}'
                )
            converted[new] = value
            report.converted[key] = new
    for key in wanted.keys() - converted.keys():
        if key.endswith('.num_batches_tracked'):
            converted[key] = torch.zeros_like(wanted[key])
            report.missing[key] = 'a batch counter, set to 0'
    missing = [key for key in wanted if key not in converted]
    if missing:
        raise InputError(
            f'checkpoint {name}: expected all parameters of a ResNet-{depth} '
            f'with {operator}, {len(missing)} are missing (in our names): '
            f'{", ".join(missing[:3])}{" ..." if missing[3:] else ""}'
        )
    return {key: converted[key] for key in wanted}, network, report


def _rename(key: str, slot: str, parts: dict[str, str]) -> str:
    """Return our name of a parameter."""
    block = BLOCK.match(key)
    inner = key[block.end() :] if block else ''
    if not inner.startswith(f'{slot}.'):
        return key
    part, _, leaf = inner.removeprefix(f'{slot}.').rpartition('.')
    names = slot, parts.get(part, part), leaf
    return block[0] + '.'.join(filter(None, names))


def _operator(
    state: dict[str, Tensor], slot: str, name: str
) -> tuple[str, dict[str, str]]:
    """Find the operator by the names of its parts, equal in every block."""
    found: dict[str, set[str]] = {}
    for key in state:
        block = BLOCK.match(key)
        part, _, leaf = key.rpartition('.')
        if block and part.startswith(f'{block[0]}{slot}'):
            parts = found.setdefault(block[0], set())
            if leaf not in COUNTERS:
                parts.add(part.removeprefix(f'{block[0]}{slot}').lstrip('.'))
    kinds = {
        block: next(
            ((n, names) for n, names in PARTS if names.keys() == parts - {''}),
            None,
        )
        for block, parts in found.items()
    }
    if all(parts == {''} for parts in found.values()):
        raise InputError(
            f'checkpoint {name}: expected an operator in {slot} of every '
            f'block, found plain convolutions; resnet_to_rfa.py converts '
            'those'
        )
    for block, kind in kinds.items():
        if kind is None:
            raise InputError(
                f'checkpoint {name}: expected the parts of '
                f'{", ".join(dict(PARTS))} in {block}{slot}, got '
                f'{", ".join(sorted(found[block] - {""})) or "none"}'
            )
    names = {kind[0] for kind in kinds.values()}
    if len(names) > 1:
        raise InputError(
            f'checkpoint {name}: expected one operator in all blocks, got '
            f'{", ".join(sorted(names))}'
        )
    return next(iter(kinds.values()))
