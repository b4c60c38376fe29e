"""Looking into a network: which layers, what they saw, nothing left."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import mmrfa
from mmrfa.errors import InputError
from mmrfa.inspection import evenness
from mmrfa.layers import CAMConv, RFAConv


class Net(nn.Module):
    """Two operators, of which the second runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(RFAConv(3, 4, 3, 2, 1), nn.ReLU())
        self.again = CAMConv(4, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x, twice=True):
        x = self.again(self.first(x))
        return self.norm(self.again(x) if twice else x)


@pytest.fixture
def net() -> Net:
    return Net()


def test_every_layer_sees_what_it_saw(net):
    x = torch.randn(1, 3, 8, 6)
    found = mmrfa.inspect(net, x)
    assert list(found) == ['first.0', 'again', 'again@2']
    seen = net.eval().first(x)
    wanted = net.again.attention(seen)['channels']
    torch.testing.assert_close(found['again']['channels'], wanted)
    wanted = net.again.attention(net.again(seen))['channels']
    torch.testing.assert_close(found['again@2']['channels'], wanted)
    assert list(mmrfa.inspect(net, x, twice=False)) == ['first.0', 'again']
    assert list(mmrfa.inspect(net.again, seen)) == ['']


def test_layers_are_chosen_by_name_and_pattern(net):
    x = torch.randn(1, 3, 8, 6)
    for layers in ('first.0', ['fir*', 'f*'], iter(['first.?'])):
        assert list(mmrfa.inspect(net, x, layers=layers)) == ['first.0']
    with pytest.raises(InputError, match='operators first.0, again, got b*'):
        mmrfa.inspect(net, x, layers=['first.0', 'b*'])
    with pytest.raises(InputError, match='names of operators, got none'):
        mmrfa.inspect(net, x, layers=[])
    with pytest.raises(InputError, match='ReLU has none'):
        mmrfa.inspect(nn.ReLU(), x)
    net.first = nn.Identity()
    net.unused = RFAConv(3, 4, 3)
    with pytest.raises(InputError, match='to run unused, it did not'):
        mmrfa.inspect(net, torch.randn(1, 4, 8, 6))


def test_the_network_is_left_as_it_was(net):
    net.train()
    net.norm.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for bad in (False, True):
        if bad:
            with pytest.raises(InputError, match='expected an input'):
                mmrfa.inspect(net, torch.randn(1, 2, 8, 6))
        else:
            mmrfa.inspect(net, torch.randn(1, 3, 8, 6))
        assert [m.training for m in (net, net.first[0], net.norm)] == [
            True,
            True,
            False,
        ]
        assert not any(m._forward_pre_hooks for m in net.modules())
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_evenness_by_hand():
    even = torch.full((1, 1, 4, 1, 1), 0.25)
    two = torch.tensor([0.5, 0.5, 0, 0]).view_as(even)
    one = torch.tensor([0, 0, 1.0, 0]).view_as(even)
    both = evenness(torch.cat([even, two, one], 4))
    torch.testing.assert_close(both.flatten(), torch.tensor([1.0, 0.5, 0.0]))
    skewed = torch.tensor([0.7, 0.3]).view(1, 1, 2, 1, 1)
    bits = -(0.7 * math.log2(0.7) + 0.3 * math.log2(0.3))
    assert evenness(skewed).item() == pytest.approx(bits)
    assert evenness(torch.ones(1, 1, 1, 2, 2)).eq(1).all()


def test_the_package_stays_light():
    code = (
        "import sys, mmrfa; assert 'torch' not in sys.modules;"
        "assert callable(mmrfa.inspect); assert 'mmengine' not in sys.modules"
    )
    subprocess.run([sys.executable, '-c', code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'inspekt'"):
        _ = mmrfa.inspekt
