"""AWConv map by map, which batches of outputs of a few pixels take."""

import pytest
import torch
from torch import nn

from mmrfa.layers import AWConv
from mmrfa.ops import use_backend
from mmrfa.ops.aw.by_maps import AttendedByMaps
from mmrfa.testing import assert_no_worse

# (N, C, H, W), r, kernel, stride, padding, dilation: outputs of 1 to 8 pixels
CASES = [
    ((8, 32, 2, 2), 16, 3, 1, 1, 1),
    ((4, 32, 4, 3), 16, 3, 2, 1, 1),
    ((8, 20, 3, 2), 10, (1, 3), 1, (0, 1), 1),
    ((8, 12, 5, 5), 6, 3, 1, 0, 2),
    ((8, 16, 2, 3), 16, 2, (2, 1), 1, 1),
    ((10, 24, 1, 1), 8, 1, 1, 0, 1),
]


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """How often it was."""
    found = []
    apply = AttendedByMaps.apply

    def counted(*args):
        found.append(args)
        return apply(*args)

    monkeypatch.setattr(AttendedByMaps, 'apply', counted)
    return found


def make(case):
    (_, channels, *_), reduction, *geometry = case
    torch.manual_seed(0)
    layer = AWConv(channels, 8, *geometry, reduction=reduction)
    for norm in layer.squeeze_norm, layer.expand_norm:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return layer.eval()


def run(layer, x, form, dtype):
    layer = layer.to(dtype)
    layer.zero_grad()
    x = x.detach().to(dtype).requires_grad_()
    with use_backend(form):
        y = layer(x)
    (y * torch.linspace(-1, 2, y.numel()).view(y.shape).to(y)).sum().backward()
    found = dict(output=y.detach(), x=x.grad)
    assert all(each.dtype == dtype for each in found.values())
    return found | {k: p.grad for k, p in layer.named_parameters()}


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_matches_the_reference(case, dtype, taken):
    layer = make(case)
    x = torch.randn(4, *case[0])

    def all_of(*how):
        each = [run(layer, one, *how) for one in x]
        return {k: torch.stack([one[k] for one in each]) for k in each[0]}

    exact = all_of('reference', torch.float64)
    theirs = all_of('reference', dtype)
    assert not taken
    ours = all_of('fused', dtype)
    assert len(taken) == 4
    for name in exact:
        assert_no_worse(name, ours[name], theirs[name], exact[name])


@pytest.mark.parametrize('case', CASES, ids=str)
def test_float64_matches_to_the_last_digits(case, taken):
    layer, x = make(case), torch.randn(case[0])
    exact = run(layer, x, 'reference', torch.float64)
    ours = run(layer, x, 'fused', torch.float64)
    assert len(taken) == 1
    for name in exact:
        torch.testing.assert_close(ours[name], exact[name], msg=name)


@pytest.mark.parametrize('trained', [True, False])
def test_layout_and_frozen_weights(trained, taken):
    layer = make(CASES[0]).requires_grad_(trained)
    x = torch.randn(CASES[0][0])
    x = x.contiguous(memory_format=torch.channels_last)
    y = layer(x)
    assert len(taken) == 1
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.requires_grad == trained
    if trained:
        y.sum().backward()
        assert layer.weight.grad.isfinite().all()


def test_autocast(taken):
    layer, x = make(CASES[0]), torch.randn(CASES[0][0])
    expected = layer(x)
    with torch.autocast('cpu', torch.bfloat16):
        found = layer(x)
    assert len(taken) == 2 and found.dtype == torch.bfloat16
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 0.05


def operands():
    made = torch.Generator().manual_seed(0)
    for shape in (8, 6, 3, 2), (2, 6, 3, 2), (8, 2, 2, 3, 2):
        yield torch.randn(
            shape, generator=made, dtype=torch.float64
        ).requires_grad_()


def attended(*tensors):
    geometry = (2, 1), (1, 0), (1, 1)
    return AttendedByMaps.apply(*tensors, geometry, (2, 1))


def test_autocast_rounds_no_operand():
    tensors = [each.detach().float().requires_grad_() for each in operands()]
    expected = attended(*tensors)
    grads = torch.autograd.grad(expected.sum(), tensors)
    with torch.autocast('cpu', torch.bfloat16):
        found = attended(*tensors)
        again = torch.autograd.grad(found.sum(), tensors)
    for ours, exact in zip((found, *again), (expected, *grads)):
        assert torch.equal(ours, exact)


def test_gradients_of_gradients():
    tensors = tuple(operands())
    assert torch.autograd.gradcheck(attended, tensors)
    assert torch.autograd.gradgradcheck(attended, tensors)


def test_several_gradients_at_once():
    tensors = tuple(operands())
    sums = attended(*tensors).sum((0, 2, 3))
    each = [
        torch.autograd.grad(value, tensors, retain_graph=True)
        for value in sums
    ]
    at_once = torch.autograd.grad(
        sums, tensors, torch.eye(len(sums)).double(), is_grads_batched=True
    )
    for found, *expected in zip(at_once, *each):
        torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize(
    ('size', 'arguments'),
    [
        ((3, 32, 2, 2), {}),
        ((8, 32, 4, 3), {}),
        ((8, 32, 2, 2), dict(groups=2)),
    ],
)
def test_other_batches_do_not_take_it(size, arguments, taken):
    AWConv(32, 8, 3, padding=1, **arguments).eval()(torch.randn(size))
    assert not taken
