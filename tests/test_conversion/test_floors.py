"""What stands in front of a convolution says how far below zero it gets."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrfa.conversion.floors import ACTIVATIONS, Watch, front, trace

MODULES = [
    kind
    for kind in vars(nn).values()
    if isinstance(kind, type) and kind.__name__.lower() in ACTIVATIONS
]


def outputs(module, dtype=torch.float32):
    x = torch.linspace(-30, 30, 600_001, dtype=dtype)
    if 'Softmax' in type(module).__name__:
        x = x[None, ::60_000, None, None]
    return module(x)


def test_constants_are_the_least_values():
    assert len(MODULES) == len(ACTIVATIONS)
    for kind in MODULES:
        variants = [kind(1) if kind is nn.Softmax else kind()]
        variants += [nn.GELU('tanh')] * (kind is nn.GELU)
        for module in variants:
            low, high = front(module)
            values = outputs(module)
            assert low <= values.min() <= 0.96 * low + 1e-5, kind
            assert high == math.inf or high - 0.04 < values.max() <= high
            # rounded by half precision, too
            assert low <= outputs(module, torch.bfloat16).min(), kind
    assert front(nn.Hardtanh(-2, 3)) == (-2, 3)
    assert front(nn.ELU(1.5))[0] == -1.5
    assert front(nn.CELU(1.5))[0] == -1.5
    assert front(nn.ELU(-1.5))[0] == -1.5 <= outputs(nn.ELU(-1.5)).min()
    assert outputs(nn.CELU(-1.5)).min() < -1e3
    for unknown in nn.LeakyReLU(), nn.PReLU(), nn.CELU(-1.5), nn.ReLU:
        assert front(unknown) is None

    class Mine(nn.ReLU):
        def forward(self, x):
            return -super().forward(x)

    assert front(Mine()) is None


class Net(nn.Module):
    """A convolution behind any function of the image."""

    def __init__(self, before, *modules):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.modules_ = nn.ModuleList(modules)
        self.before = before

    def forward(self, x):
        return self.conv(self.before(x, *self.modules_))


def overwritten(x):
    a = F.relu(x)
    b = a
    b -= 2
    return a


def overwritten_through_a_view(x):
    a = F.silu(x)
    a.flatten()[0].sub_(5)
    return a


def overwritten_through_any_view(x):
    a = F.silu(x)
    a.swapaxes(1, 2).sub_(5)
    return a


def overwritten_behind_relu(x, relu):
    a = F.silu(x)
    b = relu(a)
    b -= 5
    return a


def overwritten_beside_a_relu(x, relu):
    a = x * 1
    b = relu(a)  # is a
    a -= 0.5
    return b


def overwritten_behind_parts(x):
    a = F.relu(x)
    left, right = a.chunk(2, 2)
    a.mul_(-1)
    return torch.cat([right, left], 2)


def overwritten_through_another_view(x):
    a = F.relu(x)
    b, c = a.permute(0, 1, 3, 2), a.transpose(2, 3)
    b.sub_(1)
    return c


def overwritten_as_one_of_several(x):
    a = F.relu(x)
    _, view = torch.broadcast_tensors(x * 1, a)
    view.sub_(1)
    return a


def by_position(a):
    F.elu(a, 2.0, True)
    F.hardtanh(a, -4.0, -3.0, True)
    return a


def into(a, x):
    torch.sub(x, 5, out=a)
    return a


def overwritten_by_a_module(x, drop, act):
    a = drop(F.relu(x))
    act(a)
    return a


def concatenated(x):
    return torch.cat([F.relu(x[:, :1]), F.silu(x[:, 1:])], 1)


def halves(x):
    a, b, c = F.gelu(x).chunk(3, 1)
    return torch.cat((a, c.relu(), b), dim=1)


def gate(x):
    scale = x.mean((2, 3), keepdim=True)
    return F.silu(x) * torch.sigmoid(scale)


CASES = {
    'module': (lambda x, m: m(x), 0, nn.ReLU()),
    'in place': (lambda x, m: m(x * 1), 0.28, nn.SiLU(inplace=True)),
    'function': (lambda x: F.relu(x), 0),
    'of torch': (lambda x: torch.relu(x), 0),
    'method': (lambda x: x.clone().relu_(), 0),
    'residual': (lambda x: F.silu(x) + F.silu(-x), 0.56),
    'residual in place': (lambda x: F.relu(x).add_(F.silu(x)), 0.28),
    'shifted': (lambda x: F.silu(x) + 1, 0),
    'gate': (gate, 0.28),
    'gate of numbers': (lambda x: F.silu(x) * -2, None),
    'swish': (lambda x: x * x.sigmoid(), 0.28),
    'swish of a module': (lambda x, m: m(x) * x, 0.28, nn.Sigmoid()),
    'sigmoid of another': (lambda x: (x + 1) * x.sigmoid(), None),
    'both below': (lambda x: F.relu6(x) * F.tanh(x), 6),
    'concatenated': (concatenated, 0.28),
    'halves': (halves, 0.172),
    'pooled': (lambda x, p: p(F.silu(x)), 0.28, nn.MaxPool2d(2)),
    'padded': (lambda x: F.avg_pool2d(x.sigmoid(), 3, 1, 1), 0),
    'resized': (lambda x: F.interpolate(F.relu(x), scale_factor=2.0), 0),
    'smooth': (
        lambda x: F.interpolate(F.relu(x), scale_factor=2.0, mode='bicubic'),
        None,
    ),
    'dropout': (lambda x: F.dropout(F.silu(x), training=False), 0.28),
    'dropout that is on': (lambda x: F.dropout(F.silu(x)), None),
    'sums': (lambda x: F.avg_pool2d(F.silu(x), 2, divisor_override=1), None),
    'norm': (lambda x, n: n(F.relu(x)), None, nn.BatchNorm2d(3)),
    'leaky': (lambda x, m: m(x), None, nn.LeakyReLU()),
    'image': (lambda x: x, None),
    'overwritten': (overwritten, None),
    'through a view': (overwritten_through_a_view, None),
    'through an unknown view': (overwritten_through_any_view, None),
    'behind a ReLU in place': (overwritten_behind_relu, None, nn.ReLU(True)),
    'beside a ReLU': (overwritten_beside_a_relu, None, nn.ReLU(True)),
    'behind its parts': (overwritten_behind_parts, None),
    'through another view': (overwritten_through_another_view, None),
    'as one of several': (overwritten_as_one_of_several, None),
    'by position': (lambda x: by_position(F.relu(x)), None),
    'keywords': (lambda x: torch.cat(tensors=[x.relu().mul(other=x)]), None),
    'by name': (lambda x: into(F.relu(x), x), None),
    'by a module': (
        overwritten_by_a_module,
        None,
        nn.Dropout(),
        nn.Hardtanh(-4, -3, inplace=True),
    ),
    'sliced and set': (lambda x: set_pixel(F.relu(x)), None),
    'unknown keyword': (lambda x: torch.add(F.relu(x), x, alpha=-1), None),
}


def set_pixel(x):
    x[:, :, 0] = -7
    return x


@pytest.mark.parametrize('case', CASES)
def test_graph_tells(case):
    before, floor, *modules = CASES[case]
    net = Net(before, *modules).eval()
    found = trace(net).floors
    assert found.get('conv') == (floor and pytest.approx(floor))
    if floor is not None:
        x = 8 * torch.randn(64, 3, 6, 6)
        x[..., 0] /= 8
        seen = float(net.before(x, *net.modules_).min())
        assert seen >= -found['conv']


def test_all_calls_count():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(input=F.silu(self.conv(x.relu())))

    net = Twice().eval()
    assert trace(net).floors == {'conv': 0.28}
    with Watch(net, [net.conv]) as watch, torch.no_grad():
        net(torch.randn(2, 3, 4, 4))
    assert watch.known[net.conv] is None
    assert -0.28 <= watch.least[net.conv] < -0.1
    assert watch.shapes[net.conv] == [(2, 3, 4, 4)] * 2
    assert not net.conv._forward_pre_hooks


def test_a_network_is_left_as_it_was():
    class Remembers(nn.Module):
        last = None

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            self.last = x
            if x.sum() > 0:  # not for torch.fx
                x = -x
            return self.conv(x.relu())

    net = Remembers().eval()
    assert trace(net) == ({}, set())
    assert net.last is None


def test_hooks_may_change_what_is_known():
    act = nn.ReLU()
    net = Net(lambda x, m: m(x), act).eval()
    assert trace(net).floors == {'conv': 0}
    act.register_forward_hook(lambda module, args, output: output - 3)
    assert trace(net).floors == {'conv': None}
    with Watch(net, [net.conv]) as watch, torch.no_grad():
        net(torch.randn(1, 3, 4, 4))
    assert watch.known[net.conv] is None
    other = nn.ReLU()
    other.forward = lambda x: x
    assert front(other) is None
    # in eval mode, but for one
    net = Net(lambda x, m: m(x.relu()), nn.Dropout()).eval()
    assert trace(net).floors == {'conv': 0}
    net.modules_[0].train()
    assert trace(net).floors == {'conv': None}


def test_parameters_that_are_read_by_name():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return F.conv2d(x, self.conv.weight)

    assert trace(Reads()).read == {'conv.weight'}


def test_activation_whose_output_comes_in():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.SiLU(inplace=True)
            self.one, self.two, self.three = (
                nn.Conv2d(3, 3, 1) for _ in range(3)
            )

        def forward(self, x):
            a = self.act(self.one(x))
            b = self.two(a.chunk(1, 1)[0])
            a -= 3  # the same tensor, no longer the output of the activation
            return b + self.three(a)

    net = Net()
    convs = net.one, net.two, net.three
    with Watch(net, convs) as watch, torch.no_grad():
        net(torch.randn(4, 3, 5, 5))
    assert [watch.known[c] for c in convs] == [None, 0.28, None]
    assert watch.least[net.three] < -3


class Masked(nn.Module):
    """ReLU only with a mask."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x, mask=None, *, twice=False):
        x = self.a(x)
        if mask is not None or twice:
            x = torch.relu(x)
        return self.b(x)


def test_arguments_are_as_they_are_left_out():
    assert trace(Masked().eval()).floors['b'] is None


def test_a_forward_of_the_network_itself_is_not_in_the_graph():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    assert trace(net.eval()).floors['2'] == 0
    net.forward = lambda x: net[2](net[0](x))
    assert trace(net).floors == {}


ASKS = {
    'isinstance': lambda x: isinstance(x, torch.Tensor),
    'is_tensor': torch.is_tensor,
    'not a list': lambda x: not isinstance(x, list | tuple),
}


@pytest.mark.parametrize('is_tensor', ASKS.values(), ids=ASKS)
def test_a_branch_by_type_may_be_another_one(is_tensor):
    """What stands for a tensor in torch.fx is none."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            x = self.a(x)
            x = x if is_tensor(x) else torch.relu(x)
            return F.conv2d(self.b(x), self.a.weight.mT)

    assert trace(Net().eval()) == ({}, {'a.weight'})
