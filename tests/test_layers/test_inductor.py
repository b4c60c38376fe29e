"""Code that torch.compile generates, forward and backward."""

import copy

import pytest
import torch
from torch import nn

from mmrfa.layers import AWConv, RFAConv


@pytest.mark.slow
@pytest.mark.usefixtures('own_choice', 'kernels')
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('operator', [RFAConv, AWConv])
def test_generated_code_computes_the_same(operator, training):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 34, 1),
        operator(34, 32, 3, padding=1),
        operator(32, 4, 3, 2, 1),
        nn.ReLU(),
    ).train(training)
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, fullgraph=True)
    x = torch.randn(4, 3, 9, 8)
    for module in (net, compiled):
        module(x).pow(2).mean().backward()
    for name, parameter in net.named_parameters():
        got = twin.get_parameter(name).grad
        error = (got - parameter.grad).norm()
        assert error <= 1e-3 * parameter.grad.norm() + 1e-6, name
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(
            twin.get_buffer(name), buffer, rtol=1e-4, atol=1e-5, msg=name
        )
