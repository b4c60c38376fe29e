"""ImageNet checkpoints of the RFAConv paper's authors: what is in them."""

import torch
from torch import Tensor

from mmrfa.checkpoints.names import BLOCK, find_depth
from mmrfa.checkpoints.report import Report
from mmrfa.errors import InputError

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


def rename_authors(
    state: dict[str, Tensor], name: str
) -> tuple[dict[str, Tensor], dict, Report]:
    """Rename the parameters of an authors' network.

    The names become those of a ResNet of torchvision or timm with operators:
    ``convert_convs(resnet18(), operator, where='layer*.conv1', bias=True,
    start='fresh')`` loads them. Whether all fit is seen there.

    Args:
        state (dict[str, Tensor]): their names, without ``module.``.
        name (str): of the checkpoint, for error messages.

    Returns:
        tuple[dict[str, Tensor], dict, Report]: the parameters; ``depth`` and
        ``attention_conv``, arguments of an ``RFAResNet``; and what became of
        every name.

    Raises:
        InputError: not such a network: depth or operator are not found.
    """
    depth = find_depth(state, name)
    slot = 'conv1' if depth < 50 else 'conv2'
    operator, parts = _operator(state, slot, name)
    report, renamed = Report(), {}
    for key, value in state.items():
        if key.rpartition('.')[2] in COUNTERS:
            report.dropped[key] = 'an operation counter, no parameter'
            continue
        new = report.converted[key] = _rename(key, slot, parts)
        if new != key and value.dim() == 2:  # linear there, here a 1x1 conv
            value = value[:, :, None, None]
        renamed[new] = value
    for key in list(renamed):
        norm, _, leaf = key.rpartition('.')
        counter = f'{norm}.num_batches_tracked'
        if leaf == 'running_mean' and counter not in renamed:
            renamed[counter] = torch.tensor(0)
            report.missing[counter] = 'a batch counter, set to 0'
    return (
        renamed,
        dict(depth=depth, attention_conv=dict(type=operator)),
        report,
    )


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
