"""What an operator tells of its attention is what it multiplies by."""

from math import prod

import pytest
import torch
from torch import nn

from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS, AttentionConv2d, AWConv, RFAConv
from mmrfa.layers.parts import conv_norm
from mmrfa.ops import (
    conv2d,
    receptive_field,
    receptive_field_features,
    use_backend,
)
from mmrfa.ops.common.taps import sum_over_taps

VARIANTS = {
    **{operator.__name__: (operator, {}) for operator in OPERATORS},
    'RFAConv-unfold': (RFAConv, dict(mode='unfold')),
    'AWConv-cbam': (AWConv, dict(activation='cbam')),
}
SHAPES = {
    'RFAConv': dict(taps=(2, 8, 6, 7, 5)),
    'RFAConv-unfold': dict(taps=(2, 8, 6, 7, 5)),
    'RFCBAMConv': dict(channels=(2, 8, 1, 1, 1), taps=(2, 1, 6, 7, 5)),
    'RFCAConv': dict(rows=(2, 8, 6, 7, 1), columns=(2, 8, 6, 1, 5)),
    'CAMConv': dict(channels=(2, 8, 1, 1)),
    'CBAMConv': dict(channels=(2, 8, 1, 1), pixels=(2, 1, 8, 11)),
    'CAConv': dict(rows=(2, 8, 8, 1), columns=(2, 8, 1, 11)),
    'AWConv': dict(weight=(2, 4, 4, 2, 3)),
    'AWConv-cbam': dict(
        weight=(2, 4, 4, 2, 3), channels=(2, 8, 1, 1), pixels=(2, 1, 8, 11)
    ),
}


def make(name: str) -> AttentionConv2d:
    operator, arguments = VARIANTS[name]
    args = 8, 4, (2, 3), (1, 2), (0, 1), (1, 2), 2
    layer = operator(*args, **arguments).double().eval()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    return layer


@pytest.mark.parametrize('name', VARIANTS)
def test_shapes_are_those_documented(name):
    layer = make(name)
    x = torch.randn(2, 8, 8, 11, dtype=torch.float64)
    found = layer.attention(x)
    assert {k: tuple(v.shape) for k, v in found.items()} == SHAPES[name]
    assert all((0 < v).all() and (v < 1).all() for v in found.values())
    single = layer.attention(x[0])
    for key, value in single.items():
        torch.testing.assert_close(value, found[key][:1])


@pytest.mark.parametrize('name', VARIANTS)
def test_the_operator_is_made_of_it(name):
    """Its weights on the values they belong to give its output."""
    layer = make(name)
    x = torch.randn(2, 8, 8, 11, dtype=torch.float64)
    found = layer.attention(x)
    conv, window = layer.conv, layer.window
    if 'weight' in found:
        gates = prod(v for key, v in found.items() if key != 'weight')
        wanted = torch.cat(
            [
                conv2d(one[None], conv._replace(weight=weight), window)
                for one, weight in zip(
                    x * gates, layer.weight * found['weight']
                )
            ]
        )
    elif next(iter(found.values())).dim() == 4:
        wanted = conv2d(x * prod(found.values()), conv, window)
    else:
        values = receptive_field(x, window)
        if hasattr(layer, 'feature'):
            feature = conv_norm(layer.feature, layer.norm)
            values = receptive_field_features(x, feature, window)
        wanted = sum_over_taps(values * prod(found.values()), conv)
    with use_backend('reference'):  # which shares nothing with the above
        torch.testing.assert_close(layer(x), wanted)


def test_a_softmax_sums_to_one_and_starts_uneven():
    taps = make('RFAConv').attention(torch.rand(1, 8, 8, 11).double())['taps']
    torch.testing.assert_close(taps.sum(2), torch.ones_like(taps[:, :, 0]))
    assert taps.std() > 0.01


def test_operators_that_do_not_tell():
    class Silent(AttentionConv2d):
        pass

    with pytest.raises(InputError, match='Silent: what it weighs by'):
        Silent(1, 1, 1).attention(torch.zeros(1, 1, 1, 1))
    with pytest.raises(InputError, match=r'expected an input of shape \(N, 8'):
        make('RFAConv').attention(torch.zeros(1, 1, 9, 9))
