"""Every faster form against the reference: output, gradients, buffers."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmrfa.ops
from mmrfa.layers import AWConv, RFAConv, RFCAConv, RFCBAMConv
from mmrfa.ops import Window, use_backend
from mmrfa.ops.common.window import convolve_each
from mmrfa.testing import assert_no_worse, new_torch, runnable_backends

OPERATORS = {
    'RFAConv': (RFAConv, mmrfa.ops.rfa_conv2d),
    'unfold': (partial(RFAConv, mode='unfold'), mmrfa.ops.rfa_unfold_conv2d),
    'RFCBAMConv': (RFCBAMConv, mmrfa.ops.rfcbam_conv2d),
    'RFCAConv': (RFCAConv, mmrfa.ops.rfca_conv2d),
    'AWConv': (AWConv, mmrfa.ops.aw_conv2d),
}
PAIRS = [
    pytest.param(layer, backend, id=f'{name}-{backend}')
    for name, (layer, operator) in OPERATORS.items()
    for backend in runnable_backends(operator)
    if backend != 'reference'
]
every_form = pytest.mark.parametrize(('layer', 'backend'), PAIRS)
# AWConv has nothing of size C*K to save, and no kernels.
receptive_field_forms = pytest.mark.parametrize(
    ('layer', 'backend'), [p for p in PAIRS if not p.id.startswith('AW')]
)
# (N, C, O, H, W), kernel, stride, padding, dilation, groups
CASES = [
    ((2, 6, 8, 9, 11), 3, 1, 1, 1, 1),
    ((1, 5, 3, 7, 6), 3, 2, 1, 1, 1),
    ((2, 4, 6, 11, 13), 3, 1, 2, 2, 2),
    ((1, 3, 4, 12, 12), 3, 2, 4, 4, 1),
    # Two channels: of one, batch norm makes the gradient of a weight vanish.
    ((2, 2, 1, 6, 5), 5, 1, 2, 1, 1),
    ((2, 3, 2, 9, 8), 7, 2, 3, 1, 1),
    ((3, 1, 4, 5, 4), 1, 1, 0, 1, 1),
    ((2, 3, 4, 8, 7), (1, 3), (2, 1), (0, 2), (1, 2), 1),
    ((2, 3, 4, 6, 6), 2, 1, 1, 1, 1),
    ((1, 2, 2, 4, 4), 3, 1, 3, 1, 1),
    ((2, 17, 5, 3, 33), 3, 1, 1, 1, 1),
    ((1, 4, 4, 3, 3), 3, 1, 0, 1, 1),
]
TRAIN = dict(training=True)
MODES = {
    'train': TRAIN,
    'cumulative': dict(training=True, momentum=None),
    'eval': dict(training=False),
}


@pytest.fixture(autouse=True)
def built(request):
    """Without a compiler, what needs one is skipped, the rest is not."""
    named = 'backend' in request.fixturenames
    if named and request.getfixturevalue('backend') == 'compiled':
        request.getfixturevalue('kernels')


def make(layer, case, training, momentum=0.1):
    (_, inputs, outputs, _, _), *geometry = case
    torch.manual_seed(0)
    module = layer(inputs, outputs, *geometry)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = momentum
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    if module.taps == 1 and module.feature_norm is not None:
        # Batch norm takes the scale of a single tap out: but for eps nothing
        # would be left of the gradient of its weight. And of one feature
        # something has to pass the ReLU.
        module.feature_norm.eps = 0.1
        nn.init.constant_(module.feature_norm.bias, 0.3)
    return module.train(training)


def run(module, x, backend, dtype):
    """Output, every gradient and every buffer of two steps."""
    module = copy.deepcopy(module).to(dtype)
    with use_backend(backend):
        for _ in range(2):
            x = x.detach().to(dtype).requires_grad_()
            y = module(x)
            weight = torch.linspace(-1, 2, y.numel()).view(y.shape)
            (y * weight.to(y)).sum().backward()
    found = {'output': y.detach(), 'x': x.grad}
    found |= {f'grad {k}': p.grad for k, p in module.named_parameters()}
    return found | dict(module.named_buffers())


def check(layer, case, mode, backend, dtype, device='cpu'):
    if layer is AWConv:
        # Its norms see a few pixels only: on one channel gradients cancel.
        n, c, o, height, width = case[0]
        case = ((n, 8 * c, 8 * o, height, width), *case[1:])
    module = make(layer, case, **MODES[mode]).to(device)
    n, c, _, height, width = case[0]
    # AWConv's forms share the arithmetic behind norms of a few pixels, whose
    # rounding is as large as the bound: one draw would compare luck.
    xs = torch.randn(8 if layer is AWConv else 1, n, c, height, width)
    if module.taps == 1:
        xs += 0.5  # the mean of one tap shall not be zero by chance
    compare(module, xs.to(device), backend, dtype)


def compare(module, xs, backend, dtype):
    def all_of(*how):
        found = [run(module, x, *how) for x in xs]
        return {k: torch.stack([one[k] for one in found]) for k in found[0]}

    exact = all_of('reference', torch.float64)
    theirs = all_of('reference', dtype)
    ours = all_of(backend, dtype)
    assert ours.keys() == exact.keys()
    for name in exact:
        if 'num_batches' in name:
            assert torch.equal(ours[name], exact[name])
        else:
            assert_no_worse(name, ours[name], theirs[name], exact[name])


@every_form
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_matches_reference(layer, backend, case, mode):
    check(layer, case, mode, backend, torch.float32)


EDGES = torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]) / 4
SEEDED = torch.Generator().manual_seed(0)
RAMP = torch.linspace(0, 255, 32).expand(2, 4, 32, 32)
FAINT = {  # x, padding and dilation, weight of the features
    'ramp': (RAMP, 0, 1, EDGES),
    'taps in the padding': (
        10 + torch.randn(4, 4, 9, 9, generator=SEEDED),
        18,
        18,
        None,
    ),
    'one pixel': (20 + torch.randn(16, 4, 1, 1, generator=SEEDED), 1, 1, None),
}


@pytest.mark.parametrize('faint', FAINT)
@receptive_field_forms
def test_features_of_hardly_any_variance(layer, backend, faint):
    """What products of pixels leave of it in float32 is rounding."""
    x, padding, dilation, weight = FAINT[faint]
    torch.manual_seed(0)
    module = layer(4, 6, 3, padding=padding, dilation=dilation)
    module.norm.momentum = 1.0
    if weight is not None:
        with torch.no_grad():
            scores = getattr(module, 'feature', None) or module.attn
            scores.weight.copy_(weight.view(scores.weight.shape[1:]))
    variances = []
    for form, dtype in ((backend, x.dtype), ('reference', torch.float64)):
        each = copy.deepcopy(module).to(dtype)
        with use_backend(form):
            y = each(x.to(dtype))
        variances.append(each.norm.running_var.double())
        assert y.isfinite().all()
    ours, exact = variances
    assert (ours >= 0).all()
    # The literal form rounds its features themselves, to 1e-7 of 255.
    assert ((ours - exact).abs() <= 1e-4 * exact + 1e-8).all()
    if faint != 'ramp':  # there nothing but rounding is left, in every form
        compare(module, x.unsqueeze(0), backend, torch.float32)


@every_form
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('geometry', [(3, 1, 1, 1, 1), (3, 2, 2, 2, 2)])
def test_matches_reference_in_bfloat16(layer, backend, geometry, mode):
    """On more values: a ReLU that rounding flips then weighs little."""
    case = ((2, 16, 12, 23, 22), *geometry)
    check(layer, case, mode, backend, torch.bfloat16)


@every_form
def test_float64_matches_to_the_last_digits(layer, backend):
    if backend == 'compiled':
        with pytest.raises(RuntimeError, match='needs float32 or bfloat16'):
            module = make(layer, CASES[2], True)
            run(module, torch.randn(2, 4, 11, 13), backend, torch.float64)
        return
    for mode in (True, False):
        module = make(layer, CASES[2], mode)
        x = torch.randn(2, 4, 11, 13)
        exact = run(module, x, 'reference', torch.float64)
        ours = run(module, x, backend, torch.float64)
        for name in exact:
            torch.testing.assert_close(ours[name], exact[name], msg=name)


def test_maps_of_the_weight_that_serve_unequal_numbers_of_inputs():
    layer = partial(AWConv, reduction=3)
    module = make(layer, ((3, 7, 4, 6, 5), 3, 1, 1), True)
    x = torch.randn(3, 7, 6, 5)
    exact = run(module, x, 'reference', torch.float64)
    ours = run(module, x, 'fused', torch.float64)
    for name in exact:
        torch.testing.assert_close(ours[name], exact[name], msg=name)


@every_form
def test_uninitialised_memory_does_not_matter(layer, backend, monkeypatch):
    module = make(layer, CASES[0], True)
    x = torch.randn(2, 6, 9, 11)
    expected = run(module, x, backend, torch.float32)
    for name in ('empty', 'empty_like', 'empty_strided'):
        plain = getattr(torch, name)

        def poisoned(*args, plain=plain, **kwargs):
            out = plain(*args, **kwargs)
            if out.is_floating_point():
                out.detach().fill_(float('nan'))
            return out

        monkeypatch.setattr(torch, name, poisoned)
    ours = run(module, x, backend, torch.float32)
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], msg=name)


@receptive_field_forms
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_keeps_only_the_input_for_backward(layer, backend, training):
    """Nothing of size C*K*Ho*Wo lives between forward and backward."""
    module = layer(32, 8, 3, padding=1).train(training)
    x = torch.randn(1, 32, 16, 16, requires_grad=True)
    sizes = {}  # of a tensor that several operators keep, once

    def pack(tensor):
        sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    with use_backend(backend):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            module(x)
    kept = sum(size for size in sizes.values() if size >= x.numel())
    assert kept <= 2 * x.numel()
    with use_backend('reference'):
        sizes.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            module(x)
    assert (
        sum(sizes.values()) > 4 * 9 * x.numel()
    )  # what the literal form keeps


@receptive_field_forms
def test_norm_without_a_count_of_batches(layer, backend):
    """As ``nn.BatchNorm2d`` takes it: with a momentum it needs none."""
    module = make(layer, CASES[0], True)
    x = torch.randn(2, 6, 9, 11)
    expected = copy.deepcopy(module)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.num_batches_tracked = None
    with use_backend(backend):
        assert torch.equal(module(x), expected(x))
    for (key, ours), theirs in zip(
        module.named_buffers(),
        [v for k, v in expected.named_buffers() if 'num_batches' not in k],
    ):
        assert torch.equal(ours, theirs), key


@receptive_field_forms
def test_little_to_learn(layer, backend):
    """Nothing, on tensors that autograd knows nothing of; or a bias alone."""
    module = make(layer, CASES[0], True).requires_grad_(False)
    with torch.inference_mode():
        x = torch.randn(2, 6, 9, 11)
    with use_backend(backend):
        assert module(x).isfinite().all()
        module.bias.requires_grad_()
        loss = module(x.clone()).square().sum()
        found = torch.autograd.grad(loss, module.bias, create_graph=True)[0]
    assert found.isfinite().all() and found.any()


@receptive_field_forms
def test_input_modified_in_place_is_refused(layer, backend):
    module = make(layer, CASES[0], True)
    leaf = torch.randn(2, 6, 9, 11, requires_grad=True)
    x = leaf * 2
    with use_backend(backend):
        y = module(x)
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match='in-?place'):
        y.sum().backward()


@receptive_field_forms
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_what_changed_since_forward_is_refused_or_not_used(
    layer, backend, training
):
    """By every parameter and buffer: never another gradient."""
    module = make(layer, CASES[0], training)
    x = torch.randn(2, 6, 9, 11, requires_grad=True)

    def gradient(name=None):
        net = copy.deepcopy(module)
        with use_backend(backend):
            y = net(x)
        for key, value in (*net.named_parameters(), *net.named_buffers()):
            if key == name:
                with torch.no_grad():
                    value.mul_(2).add_(1)
        return torch.autograd.grad(y.square().sum(), x)[0]

    expected = gradient()
    for name in (*module.state_dict(),):
        try:
            assert torch.equal(gradient(name), expected), name
        except RuntimeError as error:
            assert 'modified by an in' in str(error), name


@every_form
def test_works_inside_checkpoint_and_autocast(layer, backend):
    from torch.utils.checkpoint import checkpoint

    module = make(layer, CASES[0], False)
    x = torch.randn(2, 6, 9, 11, requires_grad=True)
    with use_backend(backend):
        expected = module(x)
        got = checkpoint(module, x, use_reentrant=False)
        torch.testing.assert_close(got, expected)
        (gradient,) = torch.autograd.grad(got.sum(), x)
        (direct,) = torch.autograd.grad(expected.sum(), x)
        torch.testing.assert_close(gradient, direct)
        with torch.autocast('cpu', torch.bfloat16):
            mixed = module(x)
        assert mixed.dtype == torch.bfloat16
        mixed.float().sum().backward()
    assert (mixed - expected).norm() < 0.05 * expected.norm()
    assert (x.grad - direct).norm() < 0.1 * direct.norm()


@every_form
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_double_backward(layer, backend, training):
    """The gradient of a gradient's size, as gradient penalties need it."""
    module = make(layer, ((2, 3, 2, 5, 4), 3, 1, 1, 1, 1), training)
    x = torch.randn(2, 3, 5, 4)
    found = {}
    for name, dtype in (
        ('reference', torch.float64),
        ('reference', torch.float32),
        (backend, torch.float32),
    ):
        twin = copy.deepcopy(module).to(dtype)
        y = x.clone().to(dtype).requires_grad_()
        with use_backend(name):
            loss = twin(y).pow(2).sum()
        (gradient,) = torch.autograd.grad(loss, y, create_graph=True)
        gradient.pow(2).sum().backward()
        found[name, dtype] = {k: p.grad for k, p in twin.named_parameters()}
        found[name, dtype]['x'] = y.grad
    exact, plain, ours = found.values()
    for name, value in exact.items():
        if value is None:
            continue
        assert ours[name] is not None, name
        error = (ours[name] - value).abs().max()
        allowed = 1e-3 * value.abs().max() + 1e-6
        if value.abs().max() < 1e-9:  # what is left of it is rounding
            allowed += 2 * (plain[name] - value).abs().max()
        assert error <= allowed, name


@receptive_field_forms
@pytest.mark.parametrize('geometry', [(5, (3, 4), 1), (3, 1, 2)], ids=str)
def test_bfloat16_gradients_with_channels_last(layer, backend, geometry):
    """PyTorch leaves parts of such gradients uninitialised."""
    kernel, stride, dilation = geometry
    module = layer(4, 4, kernel, stride, 2, dilation)
    x = torch.randn(2, 4, 22, 23).contiguous(memory_format=torch.channels_last)
    exact = run(module, x, 'reference', torch.float64)
    for name in ('reference', backend):
        for _ in range(3):
            torch.full((1 << 20,), float('nan'))  # what memory may hold
            got = run(module, x, name, torch.bfloat16)
            for key in ('grad feature.weight', 'grad attn.weight'):
                if key in exact:
                    error = (got[key] - exact[key]).norm()
                    assert error < 0.2 * exact[key].norm(), (name, key)


def test_feature_convolution_gets_its_channels_first(monkeypatch):
    """What avoids that; few processors show it."""
    seen = []

    def conv2d(x, *args, plain=F.conv2d, **kwargs):
        seen.append(x.is_contiguous())
        return plain(x, *args, **kwargs)

    monkeypatch.setattr(F, 'conv2d', conv2d)
    x = torch.randn(2, 4, 9, 8, dtype=torch.bfloat16)
    weight = torch.randn(36, 1, 3, 3, dtype=torch.bfloat16)
    last = x.contiguous(memory_format=torch.channels_last)
    y = convolve_each(last, weight, None, Window((3, 3)))
    assert seen == [True]
    torch.testing.assert_close(
        y, convolve_each(x, weight, None, Window((3, 3)))
    )


@receptive_field_forms
def test_unsampled_pixels_do_not_matter(layer, backend):
    """NaN where no window looks stays there."""
    module = make(layer, ((2, 4, 3, 9, 9), 2, 3, 0, 1, 1), True)
    x = torch.randn(2, 4, 9, 9)
    clean = run(module, x, backend, torch.float32)
    x[:, :, 2::3] = float('nan')
    got = run(module, x, backend, torch.float32)
    if layer is not RFCBAMConv:  # its channel weight sees all of the image
        for name in clean:
            if name != 'x':
                torch.testing.assert_close(got[name], clean[name], msg=name)


@new_torch
@every_form
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_means_what_it_says(layer, backend, dtype):
    """In the dtype asked for, or refused with a sentence."""
    module = make(layer, CASES[0], False)
    x = torch.randn(2, 6, 9, 11)
    exact = module.double()(x.double())
    module.float()
    try:
        with use_backend(backend), torch.autocast('cpu', dtype):
            mixed = module(x)
    except RuntimeError as error:
        assert backend == 'compiled' and dtype == torch.float16
        assert 'needs float32 or bfloat16, got torch.float16' in str(error)
        with use_backend(None), torch.autocast('cpu', dtype):
            mixed = module(x)
    assert mixed.dtype == dtype
    assert (mixed - exact).norm() < 0.03 * exact.norm()


@every_form
def test_operations_are_counted_alike(layer, backend):
    """The two convolutions of the equations, whatever computes them."""
    from torch.utils.flop_counter import FlopCounterMode

    for case in (CASES[0], CASES[2]):
        module = make(layer, case, False)
        n, c, _, height, width = case[0]
        x = torch.randn(n, c, height, width)
        totals = {}
        for name in ('reference', backend):
            counter = FlopCounterMode(display=False)
            with counter, use_backend(name), torch.no_grad():
                module(x)
            totals[name] = counter.get_total_flops()
        assert totals[backend] == totals['reference'] > 0


@new_torch
@receptive_field_forms
def test_a_form_that_is_named_stays_in_an_exported_program(layer, backend):
    """For AOTInductor; where nothing is named, programs are portable."""
    module = layer(4, 6, 3, padding=1).eval()
    x = torch.randn(2, 4, 8, 8)
    with use_backend(backend), torch.no_grad():
        expected = module(x)
        program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), expected)
    names = {str(node.target) for node in program.graph.nodes}
    ours = any('mmrfa.rf_' in name for name in names)
    assert ours == (backend == 'compiled')
