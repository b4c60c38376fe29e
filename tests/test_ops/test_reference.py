"""The reference forms against equations worked out elsewhere."""

import math

import pytest
import torch
from test_ops.oracles import ORACLES
from torch import nn

import mmrfa.layers
from mmrfa.ops import Window, receptive_field, spread, use_backend

# kernel, stride, dilation, padding, groups, height, width
GEOMETRIES = [
    (1, 1, 1, 0, 1, 5, 4),
    (2, 1, 1, 0, 1, 6, 5),
    (3, 1, 1, 1, 1, 7, 6),
    (3, 2, 1, 1, 2, 7, 8),
    (3, 1, 2, 2, 1, 7, 7),
    (3, 2, 4, 4, 1, 9, 10),
    (4, 2, 1, 2, 1, 8, 9),
    (5, 1, 1, 2, 1, 6, 7),
    (5, 2, 2, 3, 2, 11, 9),
    ((1, 3), (2, 1), (1, 2), (0, 2), 1, 6, 7),
]


@pytest.fixture(autouse=True)
def reference_form():
    with use_backend('reference'):
        yield


def make(name, *args, **kwargs):
    kind, _, mode = name.partition('-')
    if mode:
        kwargs['mode'] = mode
    layer = getattr(mmrfa.layers, kind)(*args, **kwargs).double()
    # Nothing stays at a value, such as 0 or 1, that hides a slip.
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return layer


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
@pytest.mark.parametrize('name', ORACLES)
def test_matches_oracle(name, geometry, training):
    torch.manual_seed(0)
    kernel, stride, dilation, padding, groups, height, width = geometry
    layer = make(name, 34, 6, kernel, stride, padding, dilation, groups)
    layer.train(training)
    x = torch.randn(3, 34, height, width, dtype=torch.float64)
    params = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    expected = torch.from_numpy(ORACLES[name](x.numpy(), params, layer))
    with torch.no_grad():
        got = layer(x)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-9


def test_rfa_by_hand():
    """3x3 image 1..9, kernel 3, no padding: one window, one output."""
    layer = mmrfa.layers.RFAConv(1, 1, 3).double().eval()
    with torch.no_grad():
        layer.attn.weight.copy_(
            torch.arange(9).double().view(9, 1, 1, 1) * math.log(2) / 5
        )
        layer.feature.weight.copy_(torch.eye(9).view(9, 1, 3, 3))
        layer.norm.eps = 0.0
        layer.weight.fill_(1)
        layer.bias.fill_(0.25)
    x = torch.arange(1.0, 10, dtype=torch.float64).view(1, 1, 3, 3)
    # The mean of the window is 5, so the scores are t * log 2 and the
    # weights 2^t / (2^9 - 1); the features are the pixels t + 1.
    expected = sum(2**t * (t + 1) for t in range(9)) / 511 + 0.25
    assert layer(x).item() == pytest.approx(expected, abs=1e-12)


def test_rfa_softmax_survives_large_scores():
    layer = mmrfa.layers.RFAConv(2, 2, 3, padding=1)
    y = layer(torch.full((1, 2, 4, 4), 1e6))
    assert y.isfinite().all()


def test_mean_counts_padding():
    """At a corner 4 of 9 taps are inside; the mean divides by 9."""
    x = torch.ones(1, 1, 3, 3)
    field = receptive_field(x, Window((3, 3), padding=(1, 1)))
    assert field[0, 0, :, 0, 0].mean().item() == pytest.approx(4 / 9)


def test_spread_lays_taps_out_row_major():
    y = torch.arange(2 * 6 * 2 * 2.0).view(1, 2, 6, 2, 2)
    z = spread(y, (2, 3))
    assert z.shape == (1, 2, 4, 6)
    for channel in range(2):
        for tap in range(6):
            i, j = divmod(tap, 3)
            for a in range(2):
                for b in range(2):
                    value = z[0, channel, a * 2 + i, b * 3 + j]
                    assert value == y[0, channel, tap, a, b]


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('name', ORACLES)
def test_gradcheck(name, training):
    torch.manual_seed(0)
    layer = make(name, 2, 2, 3, 2, 1).train(training)
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x, *values):
        params = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, params, (x,))

    # Running statistics move with every call but do not enter the result in
    # training mode, and do not move in eval mode.
    values = [v.detach().clone().requires_grad_() for v in values]
    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize('name', ORACLES)
def test_double_backward(name):
    torch.manual_seed(0)
    layer = make(name, 2, 2, 3, 1, 1).eval()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, (x,))


@pytest.mark.parametrize('name', ['RFAConv', 'RFCBAMConv', 'RFCAConv'])
def test_running_statistics(name):
    """As nn.BatchNorm2d keeps them: unbiased variance, momentum, counter."""
    torch.manual_seed(0)
    layer = make(name, 3, 2, 3, padding=1).train()
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    layer.norm.reset_running_stats()
    raw = layer.feature(x)
    layer(x)
    mean = raw.mean((0, 2, 3))
    var = raw.transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(layer.norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(layer.norm.running_var, 0.9 + 0.1 * var)
    assert layer.norm.num_batches_tracked == 1
    layer.eval()(x)
    assert layer.norm.num_batches_tracked == 1
