"""Checkpoints of the RFAConv authors, converted and compared."""

import pytest
import torch

from mmrfa.errors import InputError
from mmrfa.models import RFAResNet
from mmrfa.models.authors import convert_authors

from . import authors_networks as authors

CASES = [(name, op) for name, op in authors.OPERATORS.items()]
CASES.append(('RFCBAMConv', authors.LogRFCBAM))


def far(ours, theirs):
    return max(
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize(
    ('name', 'operator', 'depth'),
    [(*case, 18) for case in CASES] + [('RFAConv', authors.RFA, 34)],
)
def test_features_are_the_originals(name, operator, depth, tmp_path):
    net = authors.random_network(operator, depth)
    state = net.state_dict()
    converted, network, report = convert_authors(state, 'x')
    assert network == dict(depth=depth, attention_conv=dict(type=name))
    assert report.converted.keys() | report.dropped.keys() == state.keys()
    assert list(report.dropped) == ['fc.weight', 'fc.bias']
    assert not report.missing
    ours = RFAResNet(**network)
    ours.load_state_dict(converted, strict=True)
    x = torch.randn(2, 3, 61, 75)
    with torch.no_grad():
        wanted, got = net.features(x), ours.eval()(x)
        assert far(got, wanted) < 1e-4
        # The attention of the last block matters in this comparison.
        block = ours.layer4[1].conv1
        attention = {
            'RFAConv': 'attn',
            'RFCBAMConv': 'expand',
            'RFCAConv': 'gate.expand_h',
            'CAMConv': 'gate.expand',
            'CBAMConv': 'gate.0.expand',
            'CAConv': 'gate.expand_w',
        }[name]
        block.get_submodule(attention).weight.zero_()
        assert far(ours(x)[-1:], wanted[-1:]) > 1e-3


def state_of(operator, depth=18):
    return dict(authors.random_network(operator, depth).state_dict())


def test_counters_and_foreign_names_are_reported():
    state = state_of(authors.CAM)
    state['layer1.0.conv1.total_ops'] = torch.zeros(1)
    state['layer1.0.conv1.mlp.0.total_params'] = torch.zeros(1)
    state['extra.weight'] = torch.zeros(1)
    del state['layer1.0.bn1.num_batches_tracked']
    converted, network, report = convert_authors(state, 'x')
    assert report.converted.keys() | report.dropped.keys() == state.keys()
    assert not report.converted.keys() & report.dropped.keys()
    assert 'counter' in report.dropped['layer1.0.conv1.total_ops']
    assert 'no such name' in report.dropped['extra.weight']
    assert list(report.missing) == ['layer1.0.bn1.num_batches_tracked']
    RFAResNet(**network).load_state_dict(converted, strict=True)


def broken(kind):
    state = state_of(authors.RFA)
    if kind == 'depth':
        return {k: v for k, v in state.items() if 'layer2.1.' not in k}
    if kind == 'missing':
        del state['layer3.0.conv1.get_weight.1.weight']
    elif kind == 'plain':
        state = {k: v for k, v in state.items() if '.conv1.' not in k}
        for stage in range(1, 5):
            for block in range(2):
                state[f'layer{stage}.{block}.conv1.weight'] = torch.zeros(1)
    elif kind == 'mixed':
        other = state_of(authors.CA)
        state = {k: v for k, v in state.items() if 'layer2.0.conv1' not in k}
        state |= {k: v for k, v in other.items() if 'layer2.0.conv1' in k}
    elif kind == 'shape':
        state['layer4.0.conv1.conv.0.weight'] = torch.zeros(512, 256, 5, 5)
    elif kind == 'outer':
        del state['layer4.1.bn2.weight']
    elif kind == 'foreign':
        state = {'encoder.weight': torch.zeros(2, 2)}
    return state


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('depth', '(2, 1, 2, 2)'),
        ('missing', 'layer3.0.conv1'),
        ('plain', 'resnet_to_rfa.py'),
        ('mixed', 'CAConv, RFAConv'),
        ('shape', 'layer4.0.conv1.conv.0.weight'),
        ('outer', 'layer4.1.bn2.weight'),
        ('foreign', '(0, 0, 0, 0)'),
    ],
)
def test_misfits_are_named(kind, words):
    with pytest.raises(InputError) as error:
        convert_authors(broken(kind), 'file.pth')
    assert words in str(error.value)
    assert 'file.pth' in str(error.value)
    assert '\n' not in str(error.value)
