"""The compiled operators, one by one: kernels for the CPU and plain forms."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives import cpu, rf_conv, rf_moments
from mmrfa.ops.primitives.cpu import build
from mmrfa.ops.primitives.features import features
from mmrfa.ops.primitives.folding import Folded

ROOT = Path(__file__).parents[2]
WINDOWS = [
    Window((3, 3), (1, 1), (1, 1), (1, 1)),
    Window((3, 3), (2, 3), (1, 2), (2, 1)),
    Window((5, 2), (1, 2), (3, 0), (1, 3)),
    Window((1, 1), (1, 1), (0, 0), (1, 1)),
]
FORMS = ['features', 'attention', 'unfold', 'positions', 'lines']
NAMES = ['rf_channel_pool', 'rf_line_pool', 'rf_moments']
every_window = pytest.mark.parametrize('window', WINDOWS, ids=str)
every_dtype = pytest.mark.parametrize(
    'dtype', [torch.float32, torch.bfloat16], ids=str
)
pytestmark = pytest.mark.usefixtures('kernels')


def plain(name):
    return importlib.import_module(f'mmrfa.ops.primitives.{name}').plain


def op(name):
    return getattr(torch.ops.mmrfa, name).default


def inputs(
    name,
    window,
    dtype=torch.float32,
    images=2,
    last=False,
    channels=(6, 4),
    groups=2,
    size=(9, 21),
):
    """Arguments of an operator; ``rf_conv`` in one of its forms."""
    taps = window.taps
    c, out = channels
    x = torch.randn(images, c, *size, dtype=dtype)
    if last:
        x = x.to(memory_format=torch.channels_last)
    geometry = [list(pair) for pair in window]
    learned = [torch.randn(c, taps, taps) / taps**0.5, torch.randn(c, taps)]
    if name in NAMES:
        args = [x, *([] if name == 'rf_moments' else learned), *geometry]
        return [_with_gradient(arg) for arg in args]
    height, width = window.out_size(x)
    kh, kw = window.kernel_size
    gain = torch.rand(c, taps) if name == 'attention' else None
    gates = [None] * 4
    if name == 'positions':
        gates[0] = torch.rand(images, c)
        gates[1] = torch.rand(images, taps, height, width)
    if name == 'lines':
        gates[2] = torch.rand(images, c, kh, height)
        gates[3] = torch.rand(images, c, kw, width)
    last_conv = [torch.randn(out, c // groups, kh, kw), torch.randn(out)]
    rest = *geometry[1:], groups, name == 'unfold'
    args = [x, gain, *learned, *last_conv, *gates, *rest]
    return [_with_gradient(arg) for arg in args]


def _with_gradient(arg):
    return arg.requires_grad_() if torch.is_tensor(arg) else arg


def tensors(args):
    return [arg for arg in args if torch.is_tensor(arg)]


def as_tuple(found):
    return (found,) if torch.is_tensor(found) else tuple(found)


def compare(name, args, tolerance):
    """Outputs and gradients against the plain form in float64."""
    wide = [
        _with_gradient(arg.detach().double()) if torch.is_tensor(arg) else arg
        for arg in args
    ]
    ours, exact = as_tuple(op(name)(*args)), as_tuple(plain(name)(*wide))
    if name == 'rf_channel_pool':
        # Rounded, the maximum can be in several channels: any of them will do.
        *ours, argument = ours
        y = features(*wide[:3], Window(*wide[3:]))
        maximum = y.gather(1, argument.long().unsqueeze(1)).squeeze(1)
        assert (maximum - exact[0]).abs().max() <= tolerance * maximum.max()
        exact = maximum, exact[1]
    assert len(ours) == len(exact)
    grads = [torch.randn_like(b) for b in exact]
    for found in ours, exact:
        torch.autograd.backward(found, [g.to(a) for g, a in zip(grads, found)])
    pairs = [*zip(ours, exact)]
    pairs += [(a.grad, b.grad) for a, b in zip(tensors(args), tensors(wide))]
    for a, b in pairs:
        assert a.shape == b.shape
        scale = b.abs().max().clamp(min=1)  # of one tap, softmax gives 0
        least = 1e-5 if a.dtype == torch.float64 else tolerance
        assert (a - b).abs().max() <= least * scale


TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@every_dtype
@every_window
@pytest.mark.parametrize('form', FORMS)
def test_conv(form, window, dtype):
    compare('rf_conv', inputs(form, window, dtype), TOLERANCE[dtype])


@every_dtype
@every_window
@pytest.mark.parametrize('name', NAMES)
def test_pools_and_moments(name, window, dtype):
    compare(name, inputs(name, window, dtype), TOLERANCE[dtype])


PADDED = [
    ((1, 1), (1, 1)),
    ((2, 0), (2, 1)),
    ((4, 5), (1, 2)),
    ((3, 9), (3, 9)),
    ((12, 1), (6, 1)),
]
SIZES = [(1, (3, 3)), (9, (7, 7)), (3, (5, 16)), (2, (1, 25)), (10, (70, 50))]


@pytest.mark.parametrize(
    'images, size, padding, dilation',
    [
        *((*size, *padded) for size in SIZES for padded in PADDED),
        (1, (3, 3), (0, 0), (1, 1)),
        (10, (70, 50), (0, 0), (1, 1)),
        (9, (7, 7), (0, 0), (1, 1)),
        (3, (5, 16), (0, 0), (1, 1)),
    ],
)
def test_moments_by_lag(images, size, padding, dilation):
    """Borders of all kinds, images in several groups and pieces."""
    window = Window((3, 3), (1, 1), padding, dilation)
    x = (1 + torch.randn(images, 3, *size)).requires_grad_()
    compare('rf_moments', [x, *map(list, window)], 1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_nothing_is_left_of_the_call_before(form):
    """Buffers are kept, and rows of 15 pixels end inside a vector."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    args = inputs(form, WINDOWS[0], size=(40, 40))
    nan = [
        _with_gradient(torch.full_like(arg, torch.nan))
        if torch.is_tensor(arg)
        else arg
        for arg in args
    ]
    try:
        op('rf_conv')(*nan).sum().backward()
        compare('rf_conv', inputs(form, WINDOWS[0], size=(3, 15)), 1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize('size', [30.0, 100.0, 1000.0])
@pytest.mark.parametrize('window', WINDOWS[:3], ids=str)
def test_scores_of_any_size(window, size):
    """Exponentials with and without the largest score, in one image."""
    args = inputs('attention', window)
    args[1] = (size * torch.randn(6, window.taps)).requires_grad_()
    compare('rf_conv', args, 1e-7 * size + TOLERANCE[torch.float32])


LARGE = dict(
    pixels=dict(channels=(32, 4), images=2, size=(120, 130)),
    features=dict(channels=(70, 6), images=1, groups=1),
    outputs=dict(channels=(5, 300), images=1, groups=1),
    images=dict(channels=(34, 27), images=7, groups=1, size=(7, 7)),
    parts=dict(channels=(35, 15), images=3, groups=5, size=(5, 5)),
    width=dict(channels=(3, 5), images=1, groups=1, size=(2, 700)),
)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('what', LARGE)
def test_more_than_one_block(what, form):
    """Work cut so that it fits into caches, rest and all."""
    compare('rf_conv', inputs(form, WINDOWS[0], **LARGE[what]), 1e-4)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('width', [9, 10, 12, 23])
@pytest.mark.parametrize(
    'window',
    [
        Window((5, 5), (2, 2), (2, 2), (1, 1)),
        Window((5, 5), (3, 4), (2, 2), (1, 1)),
        Window((3, 3), (1, 1), (12, 12), (12, 12)),
    ],
    ids=str,
)
def test_planes_of_part_of_an_image(form, width, window):
    """Some planes take fewer rows than a block, and end with a vector."""
    args = inputs(form, window, channels=(4, 4), images=2, size=(120, width))
    compare('rf_conv', args, 1e-4)


@pytest.mark.parametrize('name', [*FORMS, *NAMES])
def test_no_image(name):
    """A rank without data takes part: empty results, no gradient."""
    args = inputs(name, WINDOWS[1], images=0)
    found = as_tuple(op(name if name in NAMES else 'rf_conv')(*args))
    like = as_tuple(plain(name if name in NAMES else 'rf_conv')(*args))
    for a, b in zip(found, like):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert a.abs().sum() == 0
    sum(a.sum() for a in found if a.requires_grad).backward()
    for arg in tensors(args):
        assert arg.grad.shape == arg.shape and arg.grad.abs().sum() == 0


@pytest.mark.parametrize(
    'name, last',
    [('attention', False), *((name, True) for name in [*FORMS, *NAMES])],
)
def test_opcheck(name, last):
    """Schemas, fakes and gradients are what the kernels do."""
    args = inputs(name, WINDOWS[1], last=last)
    name = name if name in NAMES else 'rf_conv'
    torch.library.opcheck(op(name), args)
    found = as_tuple(op(name)(*args))
    grads = [torch.randn_like(a) for a in found if a.requires_grad]
    args = [a.detach() if torch.is_tensor(a) else a for a in args]
    if name == 'rf_conv':
        del args[5]  # the bias
    if name == 'rf_moments':
        args.insert(1, found[0].detach())
    if name == 'rf_channel_pool':
        grads.append(found[2])
    torch.library.opcheck(op(f'{name}_backward'), (*grads, *args))


@pytest.mark.parametrize('name', [*FORMS, *NAMES[:2]])
def test_gradients_of_what_was_given_in_float64(name):
    """A batch norm that was folded in needs more of them than float32 has."""
    args = inputs(name, WINDOWS[1])
    first = 1 if name in NAMES else 2
    for i in (first, first + 1):
        args[i] = _with_gradient(args[i].detach().double())
    name = name if name in NAMES else 'rf_conv'
    torch.library.opcheck(op(name), args)
    compare(name, args, 1e-5)
    for i in (first, first + 1):
        assert args[i].grad.dtype == torch.float64
        assert not args[i].grad.equal(args[i].grad.float().double())


@pytest.mark.parametrize('smooth', [False, True])
def test_opcheck_of_moments_that_may_be_summed_again(smooth):
    """In the second channel, whose features are second differences."""
    x = torch.randn(2, 2, 9, 21)
    weight = torch.randn(2, 9, 9)
    weight[1] = 0
    weight[1, :, 3:6] = torch.tensor([1.0, -2, 1])
    if smooth:
        x[:, 1] = torch.arange(21) ** 1.01
    geometry = [list(pair) for pair in Window((3, 3))]
    run = torch.ops.mmrfa.rf_exact_moments.default
    args = x.requires_grad_(), weight, 1e-5, *geometry
    torch.library.opcheck(run, args)
    _, covariance = run(*args)
    _, exact = plain('rf_moments')(x.double(), *geometry)
    error = (covariance - exact).abs().amax((1, 2)) / exact.abs().amax((1, 2))
    assert error[0] < 1e-5
    assert (error[1] < 1e-12) == smooth


@pytest.mark.parametrize('name', [*FORMS, *NAMES])
def test_channels_last_stays(name):
    args = inputs(name, WINDOWS[1], last=True)
    found = as_tuple(op(name if name in NAMES else 'rf_conv')(*args))
    if name in FORMS:
        assert found[0].is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(found[0].sum(), args[0])
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('name', [*FORMS, *NAMES])
def test_second_derivatives(name):
    args = inputs(name, WINDOWS[1])
    name = name if name in NAMES else 'rf_conv'
    wide = [
        _with_gradient(arg.detach().double()) if torch.is_tensor(arg) else arg
        for arg in args
    ]
    for run, given in (op(name), args), (plain(name), wide):
        out = as_tuple(run(*given))[0]
        (first,) = torch.autograd.grad(
            out.sigmoid().sum(), given[0], create_graph=True
        )
        first.sin().sum().backward()
    for a, b in zip(tensors(args), tensors(wide)):
        if b.grad is None or a.grad is None:
            assert a.grad is None and b.grad is None
            continue
        scale = b.grad.abs().max().clamp(min=1)
        assert (a.grad - b.grad).abs().max() <= 1e-4 * scale


@pytest.mark.parametrize(
    'transform', [torch.func.jacfwd, torch.func.jacrev, torch.func.hessian]
)
def test_transforms_are_refused(transform):
    """The tangent was zero, without a word."""
    x, *window = inputs('rf_moments', WINDOWS[0])
    with pytest.raises(RuntimeError, match='no transform of torch.func'):
        transform(lambda x: op('rf_moments')(x, *window)[0])(x.detach())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(RuntimeError, match='no forward-mode derivative'):
            op('rf_moments')(dual, *window)


@pytest.mark.parametrize('name', [*FORMS, *NAMES])
def test_autocast_changes_nothing(name):
    """The dtype of x decides; no product inside is cast behind its back."""
    args = inputs(name, WINDOWS[0])
    name = name if name in NAMES else 'rf_conv'
    expected = as_tuple(op(name)(*args))
    with torch.autocast('cpu', torch.bfloat16):
        found = as_tuple(op(name)(*args))
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype and a.equal(b)


@pytest.mark.parametrize('unfold', [False, True])
def test_operations_are_those_of_two_convolutions(unfold):
    window = WINDOWS[1]
    args = inputs('unfold' if unfold else 'features', window)
    x, weight = args[0], args[4]
    learned = Folded(*args[2:4])
    with FlopCounterMode(display=False) as ours:
        conv = Conv(weight, args[5], 2)
        rf_conv(x, learned, conv, window, unfold=unfold).sum().backward()
        rf_moments(x, window, learned.weight, 1e-5)[0].sum().backward()
    height, width = window.out_size(x)
    kernel, *geometry = window
    with FlopCounterMode(display=False) as theirs:
        feature = torch.randn(54, 1, *kernel, requires_grad=True)
        F.conv2d(x, feature, None, *geometry, groups=6).sum().backward()
        spread = torch.randn(
            2, 6, height * kernel[0], width * kernel[1], requires_grad=True
        )
        F.conv2d(spread, weight, None, kernel, groups=2).sum().backward()
    assert ours.get_total_flops() == theirs.get_total_flops() > 0


# What cannot be taken -------------------------------------------------------


def half(value):
    return None if value is None else value.detach().half()


WRONG = {
    'x': (0, half, 'x to be a dense Float or BFloat16'),
    'x of 3 dimensions': (0, lambda x: x[0], 'x of shape'),
    'double x': (0, lambda x: x.detach().double(), 'got Strided Double'),
    'small x': (0, lambda x: x[..., :1, :1], 'at least the dilated kernel'),
    'gain': (1, half, 'gain to be a dense Float'),
    'feature weight': (2, half, 'weight of the features to be a dense Float'),
    'a channel less': (2, lambda w: w[1:], r'weight of the features of shape'),
    'feature shift': (3, lambda b: b[0], 'shift of the features of shape'),
    'weight': (4, half, 'weight to be a dense Float'),
    'bfloat16 weight': (4, torch.Tensor.bfloat16, 'got Strided BFloat16'),
    'weight of more': (4, lambda w: w.repeat(1, 2, 1, 1), 'weight of shape'),
    'bias': (5, half, 'bias to be a dense Float'),
    'long bias': (5, lambda b: b.repeat(2), 'bias of shape'),
    'half a pair': (6, lambda _: torch.rand(2, 6), 'or none'),
    'gates': (8, lambda _: torch.rand(2, 6, 3, 2), 'row_gate of shape'),
    'stride': (10, lambda _: [0, 1], 'stride to be two numbers from 1'),
    'dilation': (12, lambda _: [2**40, 1], 'dilation to be two numbers'),
    'groups': (13, lambda _: 5, '5 groups'),
    'both': (14, lambda _: True, 'no gain with unfold'),
}


@pytest.mark.parametrize('case', WRONG)
def test_wrong_arguments_are_named(case):
    """Nothing is read as what it is not."""
    index, change, message = WRONG[case]
    args = inputs('attention', WINDOWS[1])
    args[index] = change(args[index])
    with pytest.raises(RuntimeError, match=f'mmrfa: expected.* {message}'):
        with torch.no_grad():
            op('rf_conv')(*args)


@pytest.mark.parametrize('name', ['rf_conv', *NAMES])
def test_wrong_gradients_are_named(name):
    args = inputs('features' if name == 'rf_conv' else name, WINDOWS[0])
    args = [a.detach() if torch.is_tensor(a) else a for a in args]
    grads = list(as_tuple(op(name)(*args)))
    if name == 'rf_conv':
        del args[5]
    if name == 'rf_moments':
        args.insert(1, grads[0])
    backward = op(f'{name}_backward')
    for index in range(len(grads)):
        for wrong in grads[index].half(), grads[index][:1]:
            given = [*grads[:index], wrong, *grads[index + 1 :], *args]
            with pytest.raises(RuntimeError, match='mmrfa: expected'):
                backward(*given)


def test_too_many_taps_are_refused():
    x, kernel = torch.randn(1, 1, 12, 12), (11, 12)
    with pytest.raises(RuntimeError, match='at most 121 taps, got 132'):
        op('rf_moments')(x, kernel, (1, 1), (0, 0), (1, 1))
    assert '121 taps' in cpu.unsupported(torch.float32, Window(kernel))
    assert 'float16' in cpu.unsupported(torch.float16, Window((3, 3)))
    assert cpu.unsupported(torch.bfloat16, Window((11, 11))) is None


def test_windows_beyond_all_memory_are_refused():
    x = torch.randn(1, 1, 4, 4)
    far = 2**20
    with pytest.raises(RuntimeError, match='smaller window'):
        op('rf_moments')(x, (3, 3), (1, 1), (far, far), (far, far))


# Values that are not numbers ------------------------------------------------


@pytest.mark.parametrize('value', [float('nan'), 1e30])
@pytest.mark.parametrize(
    'window, pixel',
    [
        (Window((1, 1), (2, 2)), (1, 1)),
        (Window((1, 1), (2, 2)), (0, 1)),
        (Window((3, 3), (2, 2), (0, 0), (2, 2)), (4, 3)),
        (Window((2, 2), (2, 2)), (8, 5)),  # the last row has no window
        # one window, and pixels beside the one that it skips
        (Window((3, 3), (1, 1), (0, 0), (4, 10)), (4, 3)),
        (Window((3, 3), (1, 1), (0, 0), (3, 9)), (4, 5)),
        (Window((3, 3), (1, 1), (0, 0), (4, 10)), (1, 10)),
    ],
    ids=str,
)
def test_pixels_that_no_window_samples_have_no_part(window, pixel, value):
    x = torch.randn(2, 3, 9, 21)
    expected = op('rf_moments')(x, *window)
    x[(..., *pixel)] = value
    found = op('rf_moments')(x.requires_grad_(), *window)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    torch.autograd.backward(found, [torch.randn_like(a) for a in found])
    assert x.grad.isfinite().all()
    assert x.grad[(..., *pixel)].abs().sum() == 0


def test_infinite_values_stay_where_they_are():
    """Garbage past the end of a row does not leak NaN into gradients."""
    x, weight, shift, *window = inputs('rf_channel_pool', WINDOWS[0])
    with torch.no_grad():
        x[0, 0, 0, 0] = float('inf')

    def pooled(x, index):
        """Of one channel at a time, so that they are the features."""
        found = [
            op('rf_channel_pool')(
                x[:, c : c + 1], weight[c : c + 1], shift[c : c + 1], *window
            )[index]
            for c in range(x.size(1))
        ]
        return torch.stack(found, 1)

    for index in range(2):
        y = pooled(x, index)
        assert y[0, 0, :, 3:].isfinite().all()
        assert y[:, 1:].isfinite().all()
        assert pooled(x * float('nan'), index).isnan().all()


def test_a_maximum_keeps_nan():
    x, weight, shift, *window = inputs('rf_channel_pool', WINDOWS[3])
    x = x.detach()
    x[0, 2, 4, 5] = float('nan')
    maximum, mean, argument = op('rf_channel_pool')(x, weight, shift, *window)
    assert maximum[0, 0, 4, 5].isnan() and argument[0, 0, 4, 5] == 2
    assert maximum.isnan().equal(mean.isnan())
    assert maximum.isnan().sum() == 1


# How the kernels run --------------------------------------------------------


@pytest.mark.parametrize('images, size', [(3, (9, 21)), (1, (5, 5))], ids=str)
@pytest.mark.parametrize('name', [*FORMS, *NAMES])
def test_threads_do_not_change_the_result(name, images, size):
    """With pixels for all of them, and with fewer."""
    assert cpu.uses_threads()
    args = inputs(name, WINDOWS[0], images=images, channels=(6, 36), size=size)
    run = op(name if name in NAMES else 'rf_conv')
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        out = as_tuple(run(*args))
        out = [a for a in out if a.requires_grad]
        grads = torch.autograd.grad(sum(a.sum() for a in out), tensors(args))
        found.append([*out, *grads])
    torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def run_code(code, **environ):
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.skipif(
    cpu.unavailable() is None and cpu.instruction_set() == 'avx2',
    reason='AVX2 is what the others run',
)
def test_kernels_of_an_older_cpu():
    """What is exact in this file, with AVX2 where the CPU has AVX-512."""
    code = (
        'import sys, pytest; from mmrfa.ops.primitives import cpu;'
        "assert cpu.instruction_set() == 'avx2';"
        f'sys.exit(pytest.main(["-q", {__file__!r}, "-k", "test_conv or pools '
        'or infinite or nan or sampled or more_than"]))'
    )
    result = run_code(code, MMRFA_AVX512='0')
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' passed' in result.stdout


def test_plain_forms_where_there_is_no_kernel():
    """Also below a mode that sees every operation."""
    code = (
        'import ctypes, torch; from unittest.mock import patch;'
        "patch.object(ctypes, 'CDLL', side_effect=OSError('no')).start();"
        'from mmrfa.ops.primitives import cpu, rf_conv;'
        'from mmrfa.ops.primitives.folding import Folded;'
        'from mmrfa.ops import Conv, Window;'
        "assert 'does not load: no' in cpu.unavailable();"
        'from torch.utils.flop_counter import FlopCounterMode;'
        'x = torch.randn(1, 2, 5, 5, dtype=torch.half, requires_grad=True);'
        'folded = Folded(torch.randn(2, 9, 9), torch.randn(2, 9));'
        'conv = Conv(torch.randn(3, 2, 3, 3, requires_grad=True), None);'
        'counter = FlopCounterMode(display=False); counter.__enter__();'
        'y = rf_conv(x, folded, conv, Window((3, 3))); y.sum().backward();'
        'assert y.dtype == x.grad.dtype == torch.half;'
        'assert x.grad.abs().sum() > 0 < conv.weight.grad.abs().sum();'
        '[cpu.unsupported(torch.float32, Window((3, 3))) for _ in range(3)]'
    )
    result = run_code(code)
    assert result.returncode == 0, result.stderr
    told = 'mmrfa: the compiled CPU kernels are not used: its library does'
    assert result.stderr.count(told) == 1


# The library ----------------------------------------------------------------


def test_a_library_that_does_not_fit_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(build, 'FOLDER', tmp_path)
    reason = lambda: cpu._load()[1]  # noqa: E731
    assert 'was not built' in reason()
    other = tmp_path / f'{build.PREFIX}1_0_0.so'
    other.write_bytes(b'')
    assert f'another torch ({other.name})' in reason()
    stem = build.library_stem(torch.__version__)
    (tmp_path / f'{stem}.so').write_bytes(b'no library')
    assert 'does not load' in reason()


def test_a_library_of_other_sources_is_refused(monkeypatch):
    monkeypatch.setattr(build, 'sources_digest', lambda: 'changed')
    _, reason = cpu._load()
    assert f'({build.library_stem(torch.__version__)}.so)' in reason
    assert 'built from other sources' in reason


def test_the_digest_follows_the_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(build, 'FOLDER', tmp_path)
    assert build.sources_digest() == ''  # a wheel ships none
    found = set()
    for text in 'one', 'two':
        (tmp_path / 'kernels.h').write_text(text)
        found.add(build.sources_digest())
    assert len(found) == 2 and '' not in found
