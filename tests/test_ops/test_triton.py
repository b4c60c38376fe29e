"""The Triton kernels: simulated on a CPU, or on a GPU where there is one.

``tests/conftest.py`` switches Triton's interpreter on where CUDA is missing.
It takes a tenth of a second and more for every tile, hence the small cases.
"""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from test_ops import test_backends
from torch.utils.checkpoint import checkpoint

from mmrfa.layers import RFAConv, RFCAConv, RFCBAMConv
from mmrfa.ops import (
    native_reference,
    triton_configs,
    triton_conv,
    triton_launch,
    triton_ops,
    use_backend,
)

ROOT = Path(__file__).parents[2]
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
LAYERS = {
    'RFAConv': RFAConv,
    'unfold': partial(RFAConv, mode='unfold'),
    'RFCBAMConv': RFCBAMConv,
    'RFCAConv': RFCAConv,
}
every_layer = pytest.mark.parametrize('layer', LAYERS.values(), ids=LAYERS)
pytestmark = pytest.mark.usefixtures('triton')
on_gpu = pytest.mark.skipif(DEVICE == 'cpu', reason='needs a CUDA device')
# kernel, stride, padding, dilation of (2, 3, 5, 4)
GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (2, 1), (2, 1)),
    ((1, 3), (1, 2), (0, 2), (1, 2)),
    ((1, 1), (1, 1), (0, 0), (1, 1)),
    ((4, 3), (3, 2), (2, 3), (1, 1)),
]
LAYOUTS = {
    'first': torch.contiguous_format,
    'last': torch.channels_last,
}
every_layout = pytest.mark.parametrize('layout', LAYOUTS)
every_geometry = pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


# The operators against plain PyTorch in float64 ----------------------------


def inputs(geometry, dtype=torch.float32, layout='first'):
    taps = geometry[0][0] * geometry[0][1]
    x = torch.randn(2, 3, 5, 4).to(DEVICE, dtype)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    parameters = [torch.randn(3, taps, device=DEVICE) for _ in range(2)]
    weight = torch.randn(3, taps, taps, device=DEVICE)
    found = x, parameters[0], weight, parameters[1]
    return [tensor.requires_grad_() for tensor in found]


def plain_conv(*args):
    *tensors, stride, padding, dilation, groups, unfold = args
    rest = (None, None, stride, padding, dilation, groups, unfold)
    return native_reference.rf_conv(*tensors, *rest)


def compare(name, args, tolerance):
    """Outputs and gradients, relative to the largest exact value."""
    run, plain = dict(
        features=(triton_ops.rf_features, native_reference.rf_weighted),
        moments=(triton_ops.rf_moments, native_reference.rf_moments),
        conv=(triton_conv.rf_conv, plain_conv),
    )[name]
    wide = [
        a.detach().double().requires_grad_() if torch.is_tensor(a) else a
        for a in args
    ]
    ours, exact = run(*args), plain(*wide)
    ours = ours if isinstance(ours, tuple) else (ours,)
    exact = exact if isinstance(exact, tuple) else (exact,)
    grads = [torch.randn_like(b) for b in exact]
    torch.autograd.backward(ours, [g.to(a.dtype) for g, a in zip(grads, ours)])
    torch.autograd.backward(exact, grads)
    pairs = list(zip(ours, exact, strict=True))
    tensors = [(a, b) for a, b in zip(args, wide) if torch.is_tensor(a)]
    pairs += [(a.grad, b.grad) for a, b in tensors]
    assert len(pairs) > len(ours)
    for a, b in pairs:
        assert a.shape == b.shape
        assert (a - b).norm() <= tolerance * b.norm() + 1e-6
    assert tensors[0][0].grad.stride() == tensors[0][0].stride()
    return ours[0]


@every_geometry
@pytest.mark.parametrize('attends', [True, False], ids=['attends', 'plain'])
def test_features(geometry, attends):
    args = inputs(geometry, layout='last' if attends else 'first')
    args[1] = args[1] if attends else None
    compare('features', (*args, *geometry), TOLERANCE[torch.float32])


def conv_inputs(geometry, dtype=torch.float32, layout='first', groups=1):
    taps = torch.randn(3, 3 // groups, *geometry[0], device=DEVICE)
    bias = torch.randn(3, device=DEVICE)
    found = *inputs(geometry, dtype, layout), taps, bias
    found = [tensor.detach().requires_grad_() for tensor in found]
    return (*found, *geometry[1:], groups, False)


@pytest.mark.parametrize('geometry', GEOMETRIES[:4], ids=str)
def test_conv_on_the_chip(geometry, monkeypatch):
    monkeypatch.setattr(triton_conv, 'ways', lambda *args: ('chip',))
    args = conv_inputs(geometry)
    compare('conv', args, TOLERANCE[torch.float32])


@every_geometry
@every_layout
def test_conv_through_memory(geometry, layout, monkeypatch):
    monkeypatch.setattr(triton_conv, 'ways', lambda *args: ('memory',))
    args = conv_inputs(geometry, layout=layout)
    compare('conv', args, TOLERANCE[torch.float32])


@every_geometry
@every_layout
def test_unfold(geometry, layout):
    x, _, weight, shift = inputs(geometry, layout=layout)
    args = (x, None, weight, shift, *geometry, True)
    compare('features', args, TOLERANCE[torch.float32])


@pytest.mark.parametrize('groups', [1, 3])
def test_conv_unfolded(groups):
    x, _, *rest = conv_inputs(GEOMETRIES[2], groups=groups)
    args = (x, None, *rest[:-1], True)
    compare('conv', args, TOLERANCE[torch.float32])


def test_conv_with_groups_and_without_bias():
    *tensors, bias, stride, padding, dilation, groups, unfold = conv_inputs(
        GEOMETRIES[2], groups=3
    )
    args = (*tensors, None, stride, padding, dilation, groups, unfold)
    compare('conv', args, TOLERANCE[torch.float32])


def test_conv_of_several_tiles():
    """More positions, channels and outputs than one tile has of each."""
    kind = dict(device=DEVICE)
    x = torch.randn(2, 40, 7, 6, **kind)
    x = x.contiguous(memory_format=torch.channels_last)
    gain, shift = (torch.randn(40, 3, **kind) for _ in range(2))
    weight = torch.randn(40, 3, 3, **kind)
    taps, bias = torch.randn(70, 40, 1, 3, **kind), torch.randn(70, **kind)
    tensors = [
        tensor.requires_grad_()
        for tensor in (x, gain, weight, shift, taps, bias)
    ]
    args = (*tensors, (1, 1), (0, 1), (1, 1), 1, False)
    for tile in ('conv', 'conv_weight', 'conv_input'):
        for sizes in triton_configs.configs(tile, True, 3, True):
            assert 84 > sizes['BLOCK_P'] or tile == 'conv'
            assert 40 > sizes['BLOCK_C']
    y = compare('conv', args, TOLERANCE[torch.float32])
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_ways(monkeypatch):
    """On the chip: no groups, few taps, and no float32 outside of tests."""
    x = torch.empty(1, 4, 8, 8, dtype=torch.bfloat16)
    three, five = (torch.empty(4, 4, k, k) for k in (3, 5))
    both = ('chip', 'memory')
    for simulated in (True, False):
        monkeypatch.setattr(
            triton_launch, 'interpreted', lambda simulated=simulated: simulated
        )
        assert triton_conv.ways(x, three, 1, False) == both
        assert triton_conv.ways(x, three, 1, True) == ('memory',)
        assert triton_conv.ways(x, three, 2, False) == ('memory',)
        assert triton_conv.ways(x, five, 1, False) == ('memory',)
        wanted = both if simulated else ('memory',)
        assert triton_conv.ways(x.float(), three, 1, False) == wanted


def test_fastest_way_is_measured_once(monkeypatch):
    """With a clock that prefers the last, and memory for two of three."""
    timed = []

    def clock(call):
        timed.append(call())
        if timed[-1] == 'large':
            raise torch.cuda.OutOfMemoryError
        return {'slow': 2.0, 'fast': 1.0}[timed[-1]]

    def chosen(key):
        return triton_conv.fastest(choices, key)()

    monkeypatch.setattr(triton_conv, 'chosen', {})
    monkeypatch.setattr(triton_launch, 'device_seconds', clock)
    monkeypatch.setattr(
        torch.cuda, 'is_current_stream_capturing', lambda: False
    )
    names = 'slow', 'large', 'fast'
    choices = {name: lambda name=name: name for name in names}
    monkeypatch.setattr(triton_launch, 'interpreted', lambda: True)
    assert chosen('key') == 'slow'
    assert not timed
    monkeypatch.setattr(triton_launch, 'interpreted', lambda: False)
    assert chosen('key') == chosen('key') == 'fast'
    assert timed == list(names)
    torch.use_deterministic_algorithms(True)
    try:
        assert chosen('key') == chosen('other') == 'slow'
    finally:
        torch.use_deterministic_algorithms(False)


@every_layout
@pytest.mark.parametrize(
    'dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_layouts_and_dtypes(layout, dtype):
    geometry = GEOMETRIES[2]
    args = (*inputs(geometry, dtype, layout), *geometry)
    y = compare('features', args, TOLERANCE[dtype])
    assert y.dtype == dtype
    # A convolution on it needs no copy: taps or positions come last.
    flat = (
        y.flatten(1, 2)
        if layout == 'first'
        else (y.transpose(1, 2).flatten(1, 2))
    )
    assert flat.data_ptr() == y.data_ptr()
    assert flat.is_contiguous(memory_format=LAYOUTS[layout])
    x = args[0].detach().requires_grad_()
    compare('moments', (x, *geometry), TOLERANCE[dtype])


@every_geometry
def test_moments(geometry):
    x = inputs(geometry, layout='first')[0]
    compare('moments', (x, *geometry), TOLERANCE[torch.float32])


def test_statistics_far_from_zero():
    """A mean 1000 times the deviation costs none of the variance's digits."""
    x = inputs(GEOMETRIES[0])[0].detach() + 1000
    geometry = ((2, 1), (1, 1), (0, 0), (1, 1))
    _, covariance = triton_ops.rf_moments(x, *geometry)
    _, exact = native_reference.rf_moments(x, *geometry)
    torch.testing.assert_close(covariance, exact, rtol=1e-4, atol=1e-5)


def test_seven_taps_a_side():
    """Forward alone: the other kernels take 4x3 taps by the same loops."""
    x = torch.randn(1, 2, 5, 4, device=DEVICE)
    gain = torch.randn(2, 49, device=DEVICE)
    weight = torch.randn(2, 49, 49, device=DEVICE)
    args = (x, gain, weight, gain, (7, 7), (3, 3), (2, 3), (1, 1))
    y, exact = (
        triton_ops.rf_features(*args),
        native_reference.rf_weighted(*args),
    )
    torch.testing.assert_close(y, exact, rtol=1e-4, atol=1e-4)


def test_a_sum_in_pieces(monkeypatch):
    """Many programs share a sum; equal inputs give equal gradients."""
    monkeypatch.setitem(triton_launch.SHORTEST_SPANS, 'last', 3)
    args = (*inputs(GEOMETRIES[2], layout='last'), *GEOMETRIES[2])
    assert triton_launch.pieces(args[0], 30, 100)[1] == 10
    compare('features', args, TOLERANCE[torch.float32])
    x = args[0].detach().requires_grad_()
    compare('moments', (x, *GEOMETRIES[2]), TOLERANCE[torch.float32])
    args = conv_inputs(GEOMETRIES[2], layout='last')
    compare('conv', args, TOLERANCE[torch.float32])


def test_wide_offsets(monkeypatch):
    for module in (triton_ops, triton_conv):
        monkeypatch.setattr(module, 'is_wide', lambda *tensors: True)
    tolerance = TOLERANCE[torch.float32]
    args = (*inputs(GEOMETRIES[2]), *GEOMETRIES[2])
    compare('features', args, tolerance)
    x = args[0].detach().requires_grad_()
    compare('moments', (x, *GEOMETRIES[2]), tolerance)
    args = conv_inputs(GEOMETRIES[2])
    compare('conv', args, tolerance)
    x, _, *rest = conv_inputs(GEOMETRIES[2])
    compare('conv', (x, None, *rest[:-1], True), tolerance)


def test_what_is_wide():
    small = torch.empty(2, 3, 4, 5, device='meta')
    large = torch.empty(2, 2**15, 2**15, 2, device='meta')
    assert not triton_launch.is_wide(small)
    assert triton_launch.is_wide(small, large)
    assert triton_launch.is_wide(small.as_strided((2, 2), (2**31, 1)))


def test_strided_input_and_gradient():
    geometry = GEOMETRIES[2]
    args = inputs(geometry)
    wide = torch.randn(2, 3, 5, 8, device=DEVICE)
    x = wide[..., ::2].requires_grad_()
    y = triton_ops.rf_features(x, *args[1:], *geometry)
    expected = triton_ops.rf_features(x.contiguous(), *args[1:], *geometry)
    torch.testing.assert_close(y, expected)
    (dx,) = torch.autograd.grad(y.sum(), x)  # expanded, all strides zero
    (exact,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(dx, exact)


def test_opcheck():
    geometry = GEOMETRIES[2]
    x, gain, weight, shift = inputs(geometry, layout='last')
    lists = list(map(list, geometry))
    opcheck = torch.library.opcheck
    opcheck(triton_ops.rf_moments, (x, *lists))
    opcheck(triton_ops.rf_features, (x, gain, weight, shift, *lists))
    opcheck(triton_ops.rf_features, (x, None, weight, shift, *lists))
    opcheck(triton_ops.rf_features, (x, None, weight, shift, *lists, True))
    x, gain, weight, shift, taps, bias, *rest = conv_inputs(geometry)
    rest = (*map(list, rest[:3]), 1)
    opcheck(
        triton_conv.rf_conv,
        (x, gain, weight, shift, taps, bias, *rest, False),
    )
    opcheck(
        triton_conv.rf_conv, (x, None, weight, shift, taps, None, *rest, True)
    )


@pytest.mark.parametrize('sign', [1, -1])
def test_large_scores_do_not_overflow(sign):
    x, gain, weight, shift = inputs(GEOMETRIES[2])
    args = (sign * 1e3 * x.detach().abs(), gain, weight, shift)
    y = triton_ops.rf_features(*args, *GEOMETRIES[2])
    exact = native_reference.rf_weighted(*args, *GEOMETRIES[2])
    torch.testing.assert_close(y, exact)


def test_nan_stays():
    x, gain, weight, shift = inputs(GEOMETRIES[3])
    nan = x.detach() * float('nan')
    y = triton_ops.rf_features(nan, gain, weight, shift, *GEOMETRIES[3])
    assert y.isnan().all()


# The layers against the reference ------------------------------------------

# (N, C, O, H, W), kernel, stride, padding, dilation, groups
CASES = {
    'dilated': ((1, 2, 4, 5, 4), 3, 2, 2, 2, 2),
    'wide': ((2, 3, 2, 3, 5), (1, 3), 1, (0, 1), 1, 1),
    'square': ((1, 2, 3, 4, 4), 3, 1, 1, 1, 1),
}


@every_layer
@pytest.mark.parametrize(
    ('case', 'mode'),
    [('dilated', 'train'), ('wide', 'cumulative'), ('square', 'eval')],
)
def test_matches_reference(layer, case, mode):
    test_backends.check(
        layer, CASES[case], mode, 'triton', torch.float32, DEVICE
    )


@every_layer
@pytest.mark.parametrize(
    ('dtype', 'layout'),
    [
        (torch.float32, 'last'),
        (torch.float16, 'first'),
        (torch.bfloat16, 'last'),
    ],
    ids=str,
)
def test_layers_by_dtype_and_layout(layer, dtype, layout):
    case = ((2, 8, 4, 6, 12), (1, 3), 1, (0, 1), 1, 1)
    module = test_backends.make(layer, case, True).to(DEVICE)
    x = torch.randn(2, 8, 6, 12, device=DEVICE)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    test_backends.compare(module, x, 'triton', dtype)


def test_five_taps_a_side():
    case = ((1, 2, 3, 5, 6), 5, 2, 2, 1, 1)
    test_backends.check(RFAConv, case, 'eval', 'triton', torch.float32, DEVICE)


def small(layer, training=True):
    module = test_backends.make(layer, CASES['wide'], training).to(DEVICE)
    n, c, _, *size = CASES['wide'][0]
    return module, torch.randn(n, c, *size, device=DEVICE)


@every_layer
def test_keeps_only_the_input_for_backward(layer):
    module, x = small(layer)
    x.requires_grad_()
    kept = []

    def pack(tensor):
        kept.append(tensor.shape)
        return tensor

    with use_backend('triton'):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            module(x)
    assert x.shape in kept
    assert max(shape.numel() for shape in kept) == x.numel()


@every_layer
def test_input_modified_in_place_is_refused(layer):
    module, leaf = small(layer, training=layer is not RFAConv)
    x = leaf.requires_grad_() * 2
    with use_backend('triton'):
        y = module(x)
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match='in-?place'):
        y.sum().backward()


def test_deepcopy_checkpoint_and_autocast(monkeypatch):
    module, x = small(RFAConv, training=False)
    x.requires_grad_()
    with use_backend('triton'):
        expected = copy.deepcopy(module)(x)
        got = checkpoint(module, x, use_reentrant=False)
        torch.testing.assert_close(got, expected)
        (gradient,) = torch.autograd.grad(got.sum(), x)
        (direct,) = torch.autograd.grad(expected.sum(), x)
        torch.testing.assert_close(gradient, direct)
        start, seen = triton_launch.start, set()

        def watched(kernel, arguments):
            seen.add(arguments['x'].dtype)
            start(kernel, arguments)

        monkeypatch.setattr(triton_launch, 'start', watched)
        with torch.autocast(DEVICE, torch.bfloat16):
            mixed = module(x)
        assert seen == {torch.bfloat16}
        assert mixed.dtype == torch.bfloat16
        mixed.float().sum().backward()
    assert (mixed - expected).norm() < 0.05 * expected.norm()
    assert (x.grad - direct).norm() < 0.1 * direct.norm()


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_double_backward(training):
    module, x = small(RFAConv, training)
    found = []
    for name, dtype in (('reference', torch.float64), ('triton', None)):
        twin = copy.deepcopy(module).to(dtype)
        y = x.to(dtype).requires_grad_()
        with use_backend(name):
            loss = twin(y).pow(2).sum()
        (gradient,) = torch.autograd.grad(loss, y, create_graph=True)
        gradient.pow(2).sum().backward()
        found.append([y.grad, twin.weight.grad, twin.feature.weight.grad])
    for exact, ours in zip(*found):
        assert (ours - exact).abs().max() <= 1e-3 * exact.abs().max() + 1e-6


@pytest.mark.parametrize('layer', [RFAConv, RFCAConv])
def test_compile_keeps_the_function(layer):
    """With the backend that checks graphs but needs no compiler."""
    module, x = small(layer)
    twin = copy.deepcopy(module)
    with use_backend('triton'):
        expected = module(x)
        got = torch.compile(twin, backend='aot_eager')(x)
        torch.testing.assert_close(got, expected)
        expected.sum().backward()
        got.sum().backward()
    for a, b in zip(twin.parameters(), module.parameters()):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(twin.buffers(), module.buffers()):
        torch.testing.assert_close(a, b)


# Where it runs -------------------------------------------------------------


@every_layer
def test_runs_only_where_named(layer, monkeypatch):
    monkeypatch.delenv('MMRFA_BACKEND', raising=False)
    # In float16, which no other compiled form takes.
    module, x = small(layer, training=False)
    module, x = module.half(), x.half()
    started = []
    monkeypatch.setattr(
        triton_launch,
        'start',
        lambda kernel, arguments: started.append(kernel),
    )
    with torch.no_grad():
        module(x)
        assert not started
        with use_backend('triton'):
            module(x)
        assert started
        started.clear()
        monkeypatch.setenv('MMRFA_BACKEND', 'triton')
        module(x)
        assert started


def refusal(layer, x):
    with use_backend('triton'), pytest.raises(RuntimeError) as error:
        layer(x)
    return str(error.value).partition(': ')[2]


def test_refusals_are_one_sentence(monkeypatch):
    x = torch.randn(1, 2, 8, 8, device=DEVICE)
    layer = RFAConv(2, 2, 3).to(DEVICE)
    dtypes = 'needs float32, float16 or bfloat16, got torch.float64'
    assert refusal(copy.deepcopy(layer).double(), x.double()) == dtypes
    large = RFAConv(2, 2, (1, 8)).to(DEVICE)
    assert refusal(large, x) == 'needs a kernel of at most 7x7, got 1x8'
    assert refusal(layer, x[:0]) == 'needs at least one image'
    synced = RFAConv(2, 2, 3, norm_cfg=dict(type='SyncBN')).to(DEVICE).eval()
    assert refusal(synced, x) == 'needs nn.BatchNorm2d, got SyncBatchNorm'
    monkeypatch.setattr(triton_launch, 'interpreted', lambda: False)
    said = refusal(layer.cpu(), x.cpu())
    assert said.startswith('needs a CUDA tensor, got one on cpu')
    assert 'TRITON_INTERPRET=1' in said


def test_missing_or_old_triton_is_named(monkeypatch):
    import triton

    unavailable = triton_launch.unavailable.__wrapped__
    assert unavailable() is None
    monkeypatch.setattr(triton, '__version__', '3.1.0')
    assert unavailable() == 'needs triton 3.7 or newer, got 3.1.0'
    monkeypatch.setitem(sys.modules, 'triton', None)
    said = unavailable()
    assert 'triton does not import' in said and 'pip install' in said


def test_importing_mmrfa_does_not_import_triton():
    code = "import sys, mmrfa.layers; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


# Without a GPU: machine code -----------------------------------------------


def test_every_kernel_compiles_without_spills(tmp_path):
    """In another process: this one has the interpreter's kernels.

    In CI all that the committed table has, elsewhere one of every tile.
    """
    everything = os.environ.get('MMRFA_REQUIRE_TRITON') == '1'
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
        (kernel, str([positions, channels, *outputs]), str(warps), most > 9)
        for (kernel, _), by_taps in triton_configs.TILES.items()
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


@pytest.mark.skipif(DEVICE == 'cuda', reason='CUDA is there')
def test_benchmark_needs_a_gpu():
    run = benchmark()
    assert run.returncode == 1
    assert run.stderr == 'error: needs a CUDA device, torch finds none\n'


@pytest.mark.skipif(DEVICE == 'cuda', reason='simulates the kernels')
def test_benchmark_in_small(tmp_path):
    run = benchmark('--dry-run', '--out', tmp_path / 'out')
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / 'out.json').read_text())
    assert results['summary'].keys() == {'inference', 'training'}
    (case,) = [c for c in results['layers'] if c['operator'] == 'RFAConv']
    for name in 'inference', 'training':
        assert case[name].keys() == {'plain', 'reference', 'fused', 'triton'}
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
@pytest.mark.parametrize('way', ['chip', 'memory'])
def test_on_the_device_at_working_size(layer, layout, size, way, monkeypatch):
    ways = triton_conv.ways
    monkeypatch.setattr(
        triton_conv,
        'ways',
        lambda *args: (way,) if way in ways(*args) else ways(*args),
    )
    case = {
        'even': ((4, 64, 64, 28, 28), 3, 1, 1, 1, 1),
        'odd': ((3, 40, 70, 29, 27), 3, 2, 1, 1, 1),
    }[size]
    module = test_backends.make(layer, case, True).to(DEVICE, torch.bfloat16)
    n, c, _, *image = case[0]
    x = torch.randn(n, c, *image, device=DEVICE)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    test_backends.compare(module, x, 'triton', torch.bfloat16)


@on_gpu
@every_layer
def test_cuda_graph(layer):
    """Another input than that of the capture, gradients included."""
    kind = dict(device=DEVICE, dtype=torch.bfloat16)
    module = layer(64, 64, 3, padding=1).to(**kind)
    captured, x = (torch.randn(4, 64, 28, 28, **kind) for _ in range(2))
    twin = copy.deepcopy(module)
    with use_backend('triton'):
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
def test_memory_kept_on_the_device():
    x = torch.randn(8, 64, 56, 56, device=DEVICE, requires_grad=True)
    module = RFAConv(64, 64, 3, padding=1).to(DEVICE)
    with use_backend('triton'):
        module(x).sum().backward()  # tunes
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        y = module(x)
        kept = torch.cuda.memory_allocated() - before
    assert kept <= 1.3 * y.numel() * y.element_size()
