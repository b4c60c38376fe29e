"""The Triton kernels: simulated on a CPU, or on a GPU where there is one.

``tests/conftest.py`` switches Triton's interpreter on where CUDA is missing.
It takes a tenth of a second and more for every tile, hence the small cases.
"""

import contextlib
import copy
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
import torch
from test_ops import test_backends
from test_ops.test_primitives import as_tuple, compare, op, plain, tensors

from mmrfa.layers import RFAConv, RFCAConv, RFCBAMConv
from mmrfa.ops import Conv, Window, use_backend
from mmrfa.ops.primitives import gpu
from mmrfa.ops.primitives.gpu import conv, features, launch, moments, rules
from mmrfa.testing import simulated_gpu

ROOT = Path(__file__).parents[2]
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
on_gpu = pytest.mark.skipif(DEVICE == 'cpu', reason='needs a CUDA device')
simulated = pytest.mark.skipif(DEVICE == 'cuda', reason='CUDA is there')
pytestmark = pytest.mark.usefixtures('triton')
WINDOWS = {
    'square': Window((3, 3), (1, 1), (1, 1), (1, 1)),
    'dilated': Window((2, 3), (2, 2), (2, 1), (2, 1)),
    'flat': Window((1, 3), (1, 2), (0, 2), (1, 2)),
    'point': Window((1, 1), (1, 1), (0, 0), (1, 1)),
    'large': Window((4, 3), (3, 2), (2, 3), (1, 1)),
}
FLAT = WINDOWS['flat']
LAYOUTS = {
    'first': torch.contiguous_format,
    'last': torch.channels_last,
}
# What rf_conv makes of the features; attention by either way to the sum.
FORMS = ['chip', 'memory', 'unfold', 'positions', 'lines']
NAMES = ['rf_channel_pool', 'rf_line_pool', 'rf_moments']
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
every_layout = pytest.mark.parametrize('layout', LAYOUTS)
every_form = pytest.mark.parametrize('form', FORMS + NAMES)


@pytest.fixture(autouse=True)
def device(triton):
    """The kernels run on this CPU, or on the GPU that is there."""
    with simulated_gpu() if DEVICE == 'cpu' else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=True)
def way(request, monkeypatch):
    """Take the way that the form names, where it can be taken."""
    named = 'form' in request.fixturenames
    form = request.getfixturevalue('form') if named else None
    if form in ('chip', 'memory'):

        def ways(of, last):
            many = of.window.taps > conv.MOST_TAPS or last.groups > 1
            return ('memory',) if many else (form,)

        monkeypatch.setattr(conv, 'ways', ways)


def inputs(
    form,
    window=FLAT,
    dtype=torch.float32,
    layout='first',
    shape=(2, 3, 5, 4),
    outputs=3,
    groups=1,
):
    """Name and arguments of a primitive, tensors with gradients."""

    def some(*sizes):
        return torch.randn(sizes, device=DEVICE)

    images, channels = shape[:2]
    taps, (kh, kw) = window.taps, window.kernel_size
    x = some(*shape).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    learned = some(channels, taps, taps), some(channels, taps)
    geometry = [list(pair) for pair in window]
    if form in NAMES:
        name = form
        args = [x, *(() if form == 'rf_moments' else learned), *geometry]
    else:
        name = 'rf_conv'
        height, width = window.out_size(x)
        gain = some(channels, taps) if form in ('chip', 'memory') else None
        gates = [None] * 4
        if form == 'positions':
            gates[0] = some(images, channels)
            gates[1] = some(images, taps, height, width)
        if form == 'lines':
            gates[2] = some(images, channels, kh, height)
            gates[3] = some(images, channels, kw, width)
        last = some(outputs, channels // groups, kh, kw), some(outputs)
        args = [x, gain, *learned, *last, *gates, *geometry[1:]]
        args += [groups, form == 'unfold']
    for tensor in tensors(args):
        tensor.requires_grad_()
    return name, args


def check(*args, tolerance=1e-5, **kwargs):
    """Outputs and gradients against the plain form in float64."""
    compare(*inputs(*args, **kwargs), tolerance)


# The primitives against plain PyTorch in float64 ---------------------------


WINDOWS_AND_LAYOUTS = [
    ('square', 'last'),
    ('dilated', 'first'),
    ('dilated', 'last'),
    ('flat', 'first'),
    ('flat', 'last'),
    ('point', 'first'),
    ('point', 'last'),
    ('large', 'first'),
]


@pytest.mark.parametrize(
    ('form', 'window', 'layout'),
    [
        (form, window, layout)
        for form in ('chip', 'memory', 'unfold', 'rf_moments')
        for window, layout in WINDOWS_AND_LAYOUTS
        if (form, window) != ('chip', 'large')  # takes fewer taps
    ]
    + [('memory', 'large', 'last')],
)
def test_windows(form, window, layout):
    """Every kernel, one after the other."""
    shape = (1 if window == 'large' else 2, 3, 5, 4)
    check(form, WINDOWS[window], layout=layout, shape=shape)


@every_layout
@pytest.mark.parametrize(
    'form', ['positions', 'lines', 'rf_channel_pool', 'rf_line_pool']
)
def test_gates_and_pools(form, layout):
    """With rows and columns of taps, which must not be confused."""
    check(form, WINDOWS['dilated'], layout=layout)


@pytest.mark.parametrize('form', FORMS)
def test_groups_without_bias(form):
    name, args = inputs(form, groups=3, layout='last')
    args[5] = None
    compare(name, args, 1e-5)


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@every_form
def test_half_precision_and_channels_last(form, dtype):
    name, args = inputs(form, dtype=dtype, layout='last')
    compare(name, args, TOLERANCE[dtype])
    assert args[0].grad.is_contiguous(memory_format=torch.channels_last)
    if form in FORMS:
        y = op(name)(*args)
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ('form', 'layout'),
    [
        ('chip', 'last'),
        ('memory', 'last'),
        ('memory', 'first'),
        ('unfold', 'last'),
        ('rf_moments', 'first'),
    ],
)
def test_several_tiles(form, layout):
    """More positions, channels and outputs than a tile has of each."""
    window = Window((1, 3), (1, 1), (0, 1), (1, 1))
    channels = 66 if (form, layout) == ('unfold', 'last') else 40
    channels = 9 if layout == 'first' else channels
    check(form, window, shape=(2, channels, 7, 6), outputs=70, layout=layout)


@every_form
def test_a_sum_in_pieces(form, monkeypatch):
    """Many programs share a sum."""
    monkeypatch.setitem(launch.SHORTEST_SPANS, 'last', 7)
    _, (x, *_) = inputs(form, layout='last')
    assert launch.pieces(x, 30, 100) == (14, 3)
    check(form, layout='last')


@every_form
def test_wide_offsets(form, monkeypatch):
    for module in (conv, features, moments):
        monkeypatch.setattr(module, 'is_wide', lambda *tensors: True)
    check(form)


def test_what_is_wide():
    small = torch.empty(2, 3, 4, 5, device='meta')
    large = torch.empty(2, 2**15, 2**15, 2, device='meta')
    assert not launch.is_wide(small)
    assert launch.is_wide(small, large)
    assert launch.is_wide(small.as_strided((2, 2), (2**31, 1)))


def test_a_gradient_is_wider_than_what_was_expanded(monkeypatch):
    wide = []
    monkeypatch.setattr(
        launch, 'start', lambda _, arguments: wide.append(arguments['WIDE'])
    )
    x = torch.empty(1, 64, 112, 112, device='meta').expand(2**12, -1, -1, -1)
    window = Window((1, 1), (4, 4))
    mean = torch.empty(64, 1, dtype=torch.float64, device='meta')
    square = mean.unsqueeze(2)
    moments.rf_moments_backward(mean, square, x, mean, *window)
    learned = torch.empty(64, 1, 1, device='meta'), mean.float()
    grad = torch.empty(1, device='meta').expand(2**12, 64, 1, 28, 28)
    features.gradients(features.Features(x, *learned, window), grad)
    # Z, of every fourth pixel a side, would not need it.
    assert wide == 4 * [True]


@every_form
def test_strided_input_and_gradient(form):
    name, args = inputs(form)
    args[0] = torch.randn(2, 3, 5, 8, device=DEVICE)[..., ::2]
    found = []
    for x in args[0], args[0].contiguous():
        x = x.detach().requires_grad_()
        y = as_tuple(op(name)(x, *args[1:]))[0]
        # of an expanded tensor, all strides zero
        found.append([y, *torch.autograd.grad(y.sum(), x)])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


@every_form
def test_no_image(form):
    """A process without data takes part: no gradient, moments of zero."""
    name, args = inputs(form, shape=(0, 3, 5, 4))
    found = as_tuple(op(name)(*args))
    for a, b in zip(found, as_tuple(plain(name)(*args)), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert not a.any()
    sum(a.sum() for a in found if a.requires_grad).backward()
    for tensor in tensors(args):
        assert tensor.grad.shape == tensor.shape and not tensor.grad.any()


@every_form
def test_opcheck(form):
    """Fakes and schemas, of the gradients' operators too."""
    name, args = inputs(form, layout='last' if form == 'lines' else 'first')
    utils = 'test_schema', 'test_faketensor', 'test_aot_dispatch_dynamic'
    torch.library.opcheck(op(name), args, test_utils=utils)
    found = as_tuple(op(name)(*args))
    grads = [torch.randn_like(a) for a in found if a.requires_grad]
    args = [a.detach() if torch.is_tensor(a) else a for a in args]
    if name == 'rf_conv':
        del args[5]  # the bias
    if name == 'rf_moments':
        args.insert(1, found[0].detach())
    if name == 'rf_channel_pool':
        grads.append(found[2])
    backward = op(f'{name}_backward')
    torch.library.opcheck(backward, (*grads, *args), test_utils=utils[:2])


# Values that are hard to take ----------------------------------------------


def test_statistics_far_from_zero():
    """A mean 1000 times the deviation costs none of the variance's digits."""
    x = torch.randn(2, 3, 5, 4, device=DEVICE) + 1000
    window = Window((2, 1))
    _, covariance = op('rf_moments')(x, *window)
    _, exact = plain('rf_moments')(x, *window)
    torch.testing.assert_close(covariance, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('window', 'pixel'),
    [
        (Window((1, 1), (2, 2)), (1, 2)),
        (Window((1, 1), (2, 2), (1, 1)), (2, 1)),
        (Window((2, 2), (3, 3)), (4, 2)),
        (Window((1, 1), (3, 1), (4, 0)), (0, 1)),
    ],
    ids=str,
)
def test_pixels_that_no_window_samples_have_no_part(window, pixel):
    x = torch.randn(2, 3, 5, 4, device=DEVICE)
    expected = op('rf_moments')(x, *window)
    x[(..., *pixel)] = float('nan')
    found = op('rf_moments')(x.requires_grad_(), *window)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    torch.autograd.backward(found, [torch.randn_like(a) for a in found])
    assert x.grad.isfinite().all()
    assert not x.grad[(..., *pixel)].any()


@every_layout
@pytest.mark.parametrize('smooth', [False, True])
@pytest.mark.parametrize(
    'height, window',
    [
        (9, Window((3, 3), (1, 1), (0, 0), (1, 1))),
        (2, Window((3, 3), (3, 1), (1, 0), (1, 1))),  # a row sees padding
    ],
)
def test_moments_that_are_summed_again(height, window, smooth, layout):
    """In the second channel, whose features are second differences."""
    x = torch.randn(2, 2, height, 21)
    weight = torch.randn(2, 9, 9)
    weight[1] = 0
    weight[1, :, 3:6] = torch.tensor([1.0, -2, 1])
    if smooth:
        x[:, 1] = torch.arange(21) ** 1.01
    x = x.to(DEVICE).contiguous(memory_format=LAYOUTS[layout])
    geometry = [list(pair) for pair in window]
    run = torch.ops.mmrfa.rf_exact_moments.default
    args = x.requires_grad_(), weight.to(DEVICE), 1e-5, *geometry
    torch.library.opcheck(run, args)
    for found, exact in zip(run(*args), plain('rf_moments')(x, *geometry)):
        assert found.dtype == torch.float64
        error = (found - exact).flatten(1).abs().amax(1)
        error /= exact.flatten(1).abs().amax(1)
        assert error[0] < 1e-5
        assert (error[1] < 1e-12) == smooth
    never = ~(plain('rf_moments')(torch.ones_like(x), *geometry)[0] > 0)
    assert never.any() == (height == 2)
    assert not found[never].any()


def test_the_host_need_not_wait_for_the_device(monkeypatch):
    """Tensors without data have nothing to wait for."""
    started = []
    monkeypatch.setattr(launch, 'start', lambda name, _: started.append(name))
    weight = torch.empty(3, 9, 9, device='meta')
    for height, padding in ((9, 0), (2, 1)):  # then a row of taps sees padding
        x = torch.empty(2, 3, height, 21, device='meta')
        geometry = [3, 3], [3, 1], [padding, 0], [1, 1]
        moments.rf_exact_moments(x, weight, 1e-5, *geometry)
    assert started == 2 * ['outer_sums', 'exact_sums']


@pytest.mark.parametrize('form', ['chip', 'memory'])
@pytest.mark.parametrize('sign', [1, -1])
def test_large_scores_do_not_overflow(form, sign):
    name, args = inputs(form)
    args[0] = sign * 1e3 * args[0].detach().abs()
    torch.testing.assert_close(op(name)(*args), plain(name)(*args))


@pytest.mark.parametrize('form', [*FORMS, *NAMES[:2]])
def test_nan_stays(form):
    name, args = inputs(form, WINDOWS['point'])
    nan = args[0].detach() * float('nan')
    for found in as_tuple(op(name)(nan, *args[1:]))[:2]:
        assert found.isnan().all()


def test_seven_taps_a_side():
    """Forward alone: the other kernels take 4x3 taps by the same loops."""
    case = dict(shape=(1, 2, 5, 4), outputs=1)
    name, args = inputs('memory', Window((7, 7), (3, 3), (2, 3)), **case)
    y, exact = op(name)(*args), plain(name)(*args)
    torch.testing.assert_close(y, exact, rtol=1e-4, atol=1e-4)


# What is refused ------------------------------------------------------------

WRONG = {
    'x': (0, torch.Tensor.double, 'needs float32, float16 or bfloat16'),
    'image': (0, lambda x: x[0], 'expected x of shape'),
    'small x': (0, lambda x: x[..., :0], 'the dilated kernel'),
    'gain': (1, torch.Tensor.half, 'gain to be torch.float32'),
    'feature weight': (2, lambda v: v[1:], 'feature_weight of shape'),
    'feature shift': (3, lambda b: b[0], 'feature_shift of shape'),
    'weight': (4, torch.Tensor.half, 'weight to be torch.float32'),
    'wide weight': (4, lambda w: w.repeat(1, 2, 1, 1), 'weight of shape'),
    'bias': (5, lambda b: b.repeat(2), 'bias of shape'),
    'half a pair': (6, lambda _: torch.rand(2, 3), 'both gates of a pair'),
    'stride': (10, lambda _: [0, 1], 'stride to be two numbers from 1'),
    'padding': (11, lambda _: [0, -1], 'padding to be two numbers from 0'),
    'dilation': (12, lambda _: [1, 0], 'dilation to be two numbers from 1'),
    'groups': (13, lambda _: 2, 'groups that divide the channels'),
    'both': (14, lambda _: True, 'no gain with unfold'),
}


@pytest.mark.parametrize('case', WRONG)
def test_wrong_arguments_are_named(case):
    """Nothing is read as what it is not."""
    index, change, message = WRONG[case]
    name, args = inputs('memory')
    args[index] = change(args[index])
    with torch.no_grad(), pytest.raises(RuntimeError, match=message):
        op(name)(*args)


def test_refusals_are_one_sentence():
    f32 = torch.float32
    assert gpu.unsupported(f32, FLAT) is None
    wide = gpu.unsupported(f32, Window((1, 8)))
    assert wide == 'needs a kernel of at most 7x7, got 1x8'
    double = RFAConv(2, 2, 3).to(DEVICE).double()
    x = torch.randn(1, 2, 8, 8, device=DEVICE)
    dtypes = 'needs float32, float16 or bfloat16, got torch.float64'
    with use_backend('compiled'), pytest.raises(RuntimeError, match=dtypes):
        double(x.double())


def test_missing_or_old_triton_is_named(monkeypatch):
    assert gpu.unavailable() is None
    monkeypatch.setattr(metadata, 'version', lambda name: '3.1.0')
    assert rules._old_triton() == 'needs triton 3.6 or newer, got 3.1.0'
    monkeypatch.undo()
    monkeypatch.setattr(
        metadata.Distribution, 'discover', lambda **kw: iter(())
    )
    assert rules._old_triton() == 'triton is not installed; pip install triton'


# The simulation -------------------------------------------------------------


@simulated
def test_simulation_ends(monkeypatch):
    """Blocks may be nested; an error ends them too. Nothing is printed."""
    name, args = inputs('rf_moments')
    started = []
    monkeypatch.setattr(
        launch, 'start', lambda kernel, arguments: started.append(kernel)
    )
    with simulated_gpu():
        op(name)(*args)
    op(name)(*args)  # in the fixture's block
    assert started == ['outer_sums'] * 2
    monkeypatch.setattr(gpu, 'interpreted', lambda: False)
    with pytest.raises(RuntimeError, match='needs TRITON_INTERPRET=1'):
        with simulated_gpu():
            pass
    code = """
import sys, torch
from mmrfa.ops import Window
from mmrfa.ops.primitives import gpu, rf_moments
from mmrfa.testing import simulated_gpu

assert 'triton' not in sys.modules
given = Window((1, 1)), torch.ones(1, 1, 1), 1e-5
x = torch.ones(1, 1, 2, 2)
for _ in range(2):
    try:
        with simulated_gpu():
            rf_moments(x.half(), *given)
            1 / 0
    except ZeroDivisionError:
        assert not gpu.simulated
    rf_moments(x, *given)
try:
    rf_moments(x.half(), *given)
except RuntimeError as error:
    assert 'CPU' in str(error)
"""
    run = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (run.returncode, run.stderr) == (0, '')


# The layers against the reference ------------------------------------------

LAYERS = {
    'RFAConv': RFAConv,
    'unfold': partial(RFAConv, mode='unfold'),
    'RFCBAMConv': RFCBAMConv,
    'RFCAConv': RFCAConv,
}
every_layer = pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
# (N, C, O, H, W), kernel, stride, padding, dilation, groups
CASES = {
    'dilated': ((1, 2, 4, 5, 4), 2, 2, 2, 2, 2),
    'flat': ((2, 8, 4, 4, 8), (1, 3), 1, (0, 1), 1, 1),
}


@every_layer
@pytest.mark.parametrize(
    ('case', 'training', 'dtype', 'layout'),
    [
        ('dilated', True, torch.float32, 'first'),
        ('flat', False, torch.float16, 'first'),
        ('flat', True, torch.bfloat16, 'last'),
    ],
    ids=str,
)
def test_layers(layer, case, training, dtype, layout):
    case = CASES[case]
    module = test_backends.make(layer, case, training).to(DEVICE)
    n, c, _, height, width = case[0]
    x = torch.randn(n, c, height, width, device=DEVICE)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    test_backends.compare(module, x[None], 'compiled', dtype)


def test_autocast_reaches_the_kernels(monkeypatch):
    module = RFAConv(3, 2, (1, 3)).to(DEVICE)
    x = torch.randn(2, 3, 3, 5, device=DEVICE)
    start, seen = launch.start, set()

    def watched(kernel, arguments):
        seen.add(arguments['x'].dtype)
        start(kernel, arguments)

    monkeypatch.setattr(launch, 'start', watched)
    with use_backend('compiled'), torch.autocast(DEVICE, torch.bfloat16):
        y = module(x)
        assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert seen == {torch.bfloat16}


def test_compile_keeps_the_function():
    """With the backend that checks graphs but needs no compiler."""
    module = RFCAConv(3, 2, (1, 3)).to(DEVICE)
    x = torch.randn(2, 3, 3, 5, device=DEVICE)
    twin = copy.deepcopy(module)
    with use_backend('compiled'):
        expected = module(x)
        compiled = torch.compile(twin, backend='aot_eager', fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)


# Which way and which tile ---------------------------------------------------


def test_ways(monkeypatch):
    """On the chip: no groups, few taps, and no float32 outside of tests."""
    both = ('chip', 'memory')
    for simulates in (True, False):
        monkeypatch.setattr(
            launch, 'interpreted', lambda simulates=simulates: simulates
        )
        for kernel, groups, gain, dtype, expected in [
            (3, 1, True, torch.bfloat16, both),
            (3, 1, False, torch.bfloat16, ('memory',)),
            (3, 2, True, torch.bfloat16, ('memory',)),
            (5, 1, True, torch.bfloat16, ('memory',)),
            (3, 1, True, torch.float32, both if simulates else ('memory',)),
        ]:
            x = torch.empty(1, 4, 8, 8, dtype=dtype)
            of = features.Features(
                x, None, None, Window((kernel, kernel)), x if gain else None
            )
            assert conv.ways(of, Conv(x, None, groups)) == expected


@pytest.mark.parametrize(
    ('needed', 'waits', 'ahead'),
    [(0, 1, True), (3e7, 3, True), (1e12, len(launch.WAITS), False)],
)
def test_the_device_waits_for_the_host(monkeypatch, needed, waits, ahead):
    """Longer, until the host has started all before the wait is over."""
    waited, called = [], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            pass

        def synchronize(self):
            pass

        def query(self):
            assert len(called) == len(waited)  # asked after the call
            return waited[-1] < needed

        def elapsed_time(self, end):
            return 1e3 * len(waited)

    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, '_sleep', waited.append)
    found = launch.device_time(lambda: called.append(1))
    assert found == (waits, ahead)
    assert waited == launch.WAITS[:waits]


def test_fastest_way_is_measured_once(monkeypatch):
    """With a clock that prefers the last, and memory for two of three."""
    timed = []

    def clock(call):
        timed.append(call())
        if timed[-1] == 'large':
            raise torch.cuda.OutOfMemoryError
        return {'slow': 2.0, 'fast': 1.0}[timed[-1]]

    def chosen(key):
        return conv.fastest(choices, key)()

    monkeypatch.setattr(conv, 'chosen', {})
    monkeypatch.setattr(launch, 'device_seconds', clock)
    monkeypatch.setattr(
        torch.cuda, 'is_current_stream_capturing', lambda: False
    )
    names = 'slow', 'large', 'fast'
    choices = {name: lambda name=name: name for name in names}
    monkeypatch.setattr(launch, 'interpreted', lambda: True)
    assert chosen('key') == 'slow'
    assert not timed
    monkeypatch.setattr(launch, 'interpreted', lambda: False)
    assert chosen('key') == chosen('key') == 'fast'
    assert timed == list(names)
    torch.use_deterministic_algorithms(True)
    try:
        assert chosen('key') == chosen('other') == 'slow'
    finally:
        torch.use_deterministic_algorithms(False)


def test_one_thread_tunes_at_a_time(monkeypatch):
    """A tuner keeps what it was called with on itself."""
    inside, most = [], []

    class Tuner:
        def __getitem__(self, grid):
            return self.run

        def run(self, **arguments):
            inside.append(arguments)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    monkeypatch.setattr(launch, 'interpreted', lambda: False)
    monkeypatch.setattr(launch, 'tuned', lambda *_: Tuner())
    monkeypatch.setattr(torch.cuda, 'device', contextlib.nullcontext)
    x = torch.zeros(1, 3, 5, 4)
    arguments = launch.common(x, FLAT) | dict(count=20, WIDE=False)
    threads = [
        threading.Thread(target=launch.start, args=('features', arguments))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_no_tuning_inside_a_cuda_graph(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, 'is_current_stream_capturing', lambda: True
    )
    with pytest.raises(RuntimeError, match='ran once .* before a CUDA graph'):
        launch._time(lambda: None, (0.5,))


def test_more_positions_than_a_kernel_counts():
    x = torch.empty(2**21, 1, 32, 32, device='meta')
    with pytest.raises(
        RuntimeError, match='positions in a batch, got 2147483648'
    ):
        moments.rf_moments(x, [1, 1], [1, 1], [0, 0], [1, 1])


@every_layout
def test_features_in_memory_need_no_copy(layout):
    """For the last sum: taps or positions come last."""
    _, (x, _, weight, shift, *_) = inputs('memory', layout=layout)
    y = features.weighted(features.Features(x, weight, shift, FLAT))
    flat = y if layout == 'first' else y.transpose(1, 2)
    flat = flat.flatten(1, 2)
    assert flat.data_ptr() == y.data_ptr()
    assert flat.is_contiguous(memory_format=LAYOUTS[layout])


# Without a GPU: machine code ------------------------------------------------


def test_every_kernel_compiles_without_spills(tmp_path):
    """In another process: this one has the interpreter's kernels.

    In CI all that the committed table has, elsewhere one of every tile with
    short addresses.
    """
    everything = os.environ.get('MMRFA_REQUIRE_KERNELS') == '1'
    script = ROOT / 'benchmarks/triton_resources.py'
    out = tmp_path / 'resources'
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    env |= {'TRITON_CACHE_DIR': str(tmp_path), 'PYTHONPATH': str(ROOT)}
    env['PYTHONPATH'] += os.pathsep + os.environ.get('PYTHONPATH', '')
    run = subprocess.run(
        [sys.executable, script, '--out', out]
        + ([] if everything else ['--sample']),
        capture_output=True,
        text=True,
        env=env,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(out.with_suffix('.json').read_text())['kernels']
    committed = ROOT / 'benchmarks/results/triton_resources.json'
    committed = json.loads(committed.read_text())['kernels']

    def tiles(rows):
        names = 'kernel', 'variant', 'layout', 'tile', 'warps'
        return {
            (*(str(row[name]) for name in names), row['taps'] > 9)
            for row in rows
            if everything or 'WIDE' not in row['variant']
        }

    # Every kernel and every tile, here and in the committed table.
    assert len(tiles(found)) > 60
    assert tiles(found) == tiles(committed)
    ours = {
        (name, str([positions, channels, *outputs]), str(warps), most > 9)
        for name, kernel in launch.kernels().items()
        for by_taps in (kernel.first or {}, kernel.last)
        for most, choices in by_taps.items()
        for positions, channels, warps, *outputs in choices
    }
    assert {
        (k, tile, w, large) for k, _, _, tile, w, large in tiles(found)
    } == ours
    assert {row['arch'] for row in found} == {'sm_80', 'sm_90'}
    assert {row['dtype'] for row in found} == {
        'float32',
        'float16',
        'bfloat16',
    }
    assert all(row['spilled'] == 0 for row in found + committed)
    assert all(0 < row['registers'] <= 255 for row in found + committed)


# The benchmark ---------------------------------------------------------------


def benchmark(*arguments):
    script = ROOT / 'benchmarks/run_cuda.py'
    return subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True
    )


@simulated
def test_benchmark_needs_a_gpu():
    run = benchmark()
    assert run.returncode == 1
    assert run.stderr == 'error: needs a CUDA device, torch finds none\n'


@simulated
def test_benchmark_in_small(tmp_path):
    run = benchmark('--dry-run', '--out', tmp_path / 'out')
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / 'out.json').read_text())
    assert results['summary'].keys() == {'inference', 'training'}
    (case,) = [c for c in results['layers'] if c['operator'] == 'RFAConv']
    for name in 'inference', 'training':
        assert case[name].keys() == {'plain', 'reference', 'fused', 'compiled'}
        assert all(spent > 0 for spent in case[name].values())
        assert f'## Layers, {name}' in (tmp_path / 'out.md').read_text()
    assert (tmp_path / 'out.png').stat().st_size > 1000
    if importlib.util.find_spec('mmseg'):
        (network,) = results['networks']
        assert network['training'].keys() == {'plain', 'fused'}


# On a GPU --------------------------------------------------------------------


@on_gpu
@every_layer
@every_layout
@pytest.mark.parametrize('size', ['even', 'odd'])
@pytest.mark.parametrize('form', ['chip', 'memory'])
def test_on_the_device_at_working_size(layer, layout, size, form):
    case = {
        'even': ((4, 64, 64, 28, 28), 3, 1, 1, 1, 1),
        'odd': ((3, 40, 70, 29, 27), 3, 2, 1, 1, 1),
    }[size]
    module = test_backends.make(layer, case, True).to(DEVICE, torch.bfloat16)
    n, c, _, *image = case[0]
    x = torch.randn(n, c, *image, device=DEVICE)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    test_backends.compare(module, x[None], 'compiled', torch.bfloat16)


@on_gpu
@every_layer
def test_cuda_graph(layer):
    """Another input than that of the capture, gradients included."""
    kind = dict(device=DEVICE, dtype=torch.bfloat16)
    module = layer(64, 64, 3, padding=1).to(**kind)
    captured, x = (torch.randn(4, 64, 28, 28, **kind) for _ in range(2))
    twin = copy.deepcopy(module)
    with use_backend('compiled'):
        torch.cuda.make_graphed_callables(module, (captured.requires_grad_(),))
        twin.load_state_dict(module.state_dict())  # its capture moved them
        found, expected = [], []
        for network, results in ((module, found), (twin, expected)):
            y = network(leaf := x.clone().requires_grad_())
            y.square().sum().backward()
            results += [y, leaf.grad]
            results += [p.grad for p in network.parameters()]
    for a, b in zip(found, expected, strict=True):
        assert b.isfinite().all()
        assert (a - b).norm() <= 1e-2 * b.norm()


@on_gpu
@every_layer
def test_runs_only_where_named(layer, monkeypatch):
    module = layer(2, 2, 3).to(DEVICE)
    x = torch.randn(1, 2, 8, 8, device=DEVICE)
    start, started = launch.start, []

    def watched(kernel, arguments):
        started.append(kernel)
        start(kernel, arguments)

    monkeypatch.setattr(launch, 'start', watched)
    with use_backend(None):
        module(x)
    assert not started
    with use_backend('compiled'):
        module(x)
    assert started


@on_gpu
def test_memory_kept_on_the_device():
    x = torch.randn(8, 64, 56, 56, device=DEVICE, requires_grad=True)
    module = RFAConv(64, 64, 3, padding=1).to(DEVICE)
    with use_backend('compiled'):
        module(x).sum().backward()  # tunes
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        y = module(x)
        kept = torch.cuda.memory_allocated() - before
    assert kept <= 1.3 * y.numel() * y.element_size()
