"""The compiled CPU kernels as operators of torch."""

import copy
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from mmrfa.layers import RFAConv, RFCAConv
from mmrfa.ops import (
    native,
    native_build,
    native_reference,
    use_backend,
)
from mmrfa.ops.receptive_field import out_size

ROOT = Path(__file__).parents[2]
LAYERS = [RFAConv, RFCAConv]
# kernel, stride, padding, dilation of (2, 5, 9, 21)
GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 3), (2, 3), (1, 2), (2, 1)),
    ((5, 2), (1, 2), (3, 0), (1, 3)),
    ((1, 1), (1, 1), (0, 0), (1, 1)),
]
every_geometry = pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)


pytestmark = pytest.mark.usefixtures('kernels')


def inputs(geometry, dtype=torch.float32):
    taps = geometry[0][0] * geometry[0][1]
    x = torch.randn(2, 5, 9, 21).to(dtype).requires_grad_()
    folded = torch.randn(5, taps, taps, requires_grad=True)
    shift = torch.randn(5, taps, requires_grad=True)
    return x, folded, shift


FORMS = ['features', 'attention', 'unfold', 'positions', 'lines']


def form_arguments(form, geometry):
    """Gain, the two gates and unfold of one form of rf_conv."""
    kernel = geometry[0]
    height, width = out_size(torch.empty(2, 5, 9, 21), *geometry)
    taps = kernel[0] * kernel[1]
    shapes = {
        'attention': [(5, taps)],
        'positions': [(2, 5), (2, taps, height, width)],
        'lines': [(2, 5, kernel[0], height), (2, 5, kernel[1], width)],
    }
    tensors = [
        torch.rand(shape, requires_grad=True) for shape in shapes.get(form, [])
    ]
    gain = tensors.pop() if form == 'attention' else None
    return gain, tensors or [None, None], form == 'unfold'


@every_geometry
@pytest.mark.parametrize('form', FORMS)
def test_conv(geometry, form):
    x, folded, shift = inputs(geometry)
    gain, gates, unfold = form_arguments(form, geometry)
    weight = torch.randn(10, 1, *geometry[0], requires_grad=True)
    bias = torch.randn(10, requires_grad=True)
    rest = (*gates, *geometry[1:], 5, unfold)
    compare('rf_conv', (x, gain, folded, shift, weight, bias, *rest))


@every_geometry
@pytest.mark.parametrize('name', ['rf_channel_pool', 'rf_line_pool'])
def test_pools(geometry, name):
    compare(name, (*inputs(geometry), *geometry))


@every_geometry
def test_moments(geometry):
    x, _, _ = inputs(geometry)
    compare('rf_moments', (x, *geometry))


def compare(name, args):
    """Outputs and gradients against plain PyTorch in float64."""
    ours = getattr(torch.ops.mmrfa, name)(*args)
    wide = [
        a.detach().double().requires_grad_() if torch.is_tensor(a) else a
        for a in args
    ]
    exact = getattr(native_reference, name)(*wide)
    ours = ours if isinstance(ours, (tuple, list)) else (ours,)
    exact = exact if isinstance(exact, tuple) else (exact,)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(
            a.double(), b.double(), rtol=2e-5, atol=2e-5
        )
    pairs = [(a, b) for a, b in zip(ours, exact) if b.requires_grad]
    ours, exact = zip(*pairs)
    grads = [torch.randn_like(b) for b in exact]
    torch.autograd.backward(ours, [g.to(a) for g, a in zip(grads, ours)])
    torch.autograd.backward(exact, grads)
    tensors = [(a, b) for a, b in zip(args, wide) if torch.is_tensor(a)]
    assert tensors
    for a, b in tensors:
        scale = max(b.grad.abs().max(), 1)  # of one tap, softmax gives 0
        assert (a.grad - b.grad).abs().max() <= 1e-5 * scale


def test_too_many_taps_are_refused():
    x, kernel = torch.randn(1, 1, 12, 12), (11, 12)
    with pytest.raises(RuntimeError, match='at most 121 taps, got 132'):
        torch.ops.mmrfa.rf_moments(x, kernel, (1, 1), (0, 0), (1, 1))


def test_opcheck():
    torch.manual_seed(0)
    geometry = GEOMETRIES[1]
    x, folded, shift = inputs(geometry)
    weight = torch.randn(4, 5, *geometry[0], requires_grad=True)
    lists = list(map(list, geometry))
    ops = torch.ops.mmrfa
    torch.library.opcheck(ops.rf_moments, (x, *lists))
    torch.library.opcheck(ops.rf_channel_pool, (x, folded, shift, *lists))
    torch.library.opcheck(ops.rf_line_pool, (x, folded, shift, *lists))
    for form in FORMS:
        gain, gates, unfold = form_arguments(form, geometry)
        rest = (weight, None, *gates, *lists[1:], 1, unfold)
        torch.library.opcheck(ops.rf_conv, (x, gain, folded, shift, *rest))


def test_infinite_values_stay_where_they_are():
    """Garbage past the end of a row does not leak NaN into gradients."""
    geometry = GEOMETRIES[0]
    x, folded, shift = inputs(geometry)
    with torch.no_grad():
        x[0, 0, 0, 0] = float('inf')

    def features(x):
        """Of one channel at a time, so that their mean is the features."""
        means = [
            torch.ops.mmrfa.rf_channel_pool(
                x[:, c : c + 1], folded[c : c + 1], shift[c : c + 1], *geometry
            )[1]
            for c in range(x.size(1))
        ]
        return torch.stack(means, 1)

    y = features(x)
    assert y[0, 0, :, 3:].isfinite().all()
    assert y[:, 1:].isfinite().all()
    assert features(x * float('nan')).isnan().all()


def test_threads_do_not_change_the_result():
    assert torch.ops.mmrfa.uses_threads()
    layer = RFAConv(6, 4, 3, padding=1)
    x = torch.randn(3, 6, 17, 19)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        twin = copy.deepcopy(layer)
        with use_backend('cpu'):
            twin(x).sum().backward()
        found.append([p.grad for p in twin.parameters()])
    torch.set_num_threads(threads)
    for other in found[1:]:
        for a, b in zip(found[0], other):
            torch.testing.assert_close(a, b)


def test_more_than_one_group_of_pixels():
    """An image whose features exceed the cache is worked on in pieces."""
    layer = RFAConv(32, 4, 3, padding=1)
    x = torch.randn(2, 32, 120, 130)
    found = []
    for backend in ('cpu', 'reference'):
        twin = copy.deepcopy(layer)
        y = x.clone().requires_grad_()
        with use_backend(backend):
            out = twin(y)
        out.pow(2).mean().backward()
        grads = [p.grad for p in twin.parameters()]
        found.append([out, y.grad, *grads, *twin.buffers()])
    for a, b in zip(*found):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize('layer', LAYERS, ids=lambda c: c.__name__)
def test_export_keeps_the_function(layer):
    module = layer(4, 6, 3, padding=1).eval()
    x = torch.randn(2, 4, 8, 8)
    with use_backend('cpu'), torch.no_grad():
        expected = module(x)
        program = torch.export.export(module, (x,))
        torch.testing.assert_close(program.module()(x), expected)
    names = {str(node.target) for node in program.graph.nodes}
    assert any('mmrfa.rf_' in name for name in names)


@pytest.mark.parametrize('layer', LAYERS, ids=lambda c: c.__name__)
def test_compile_keeps_the_function(layer):
    """With the backend that checks graphs but needs no compiler."""
    module = layer(4, 6, 3, padding=1)
    x = torch.randn(2, 4, 8, 8)
    twin = copy.deepcopy(module)
    with use_backend('cpu'):
        expected = module(x)
        got = torch.compile(twin, backend='aot_eager')(x)
        torch.testing.assert_close(got, expected)
        expected.sum().backward()
        got.sum().backward()
    for a, b in zip(twin.parameters(), module.parameters()):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(twin.buffers(), module.buffers()):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(
    os.environ.get('MMRFA_AVX512') == '0', reason='runs inside itself'
)
def test_kernels_of_an_older_cpu():
    """What follows in this file, with AVX2 where the CPU has AVX-512."""
    code = (
        'import sys, pytest, torch; from mmrfa.ops import native;'
        'assert native.unavailable() is None;'
        "assert torch.ops.mmrfa.instruction_set() == 'avx2';"
        f'sys.exit(pytest.main(["-q", {__file__!r}, "-k", "features or conv '
        'or moments or infinite or threads"]))'
    )
    result = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'MMRFA_AVX512': '0'},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' passed' in result.stdout


def test_a_library_that_does_not_fit_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(native_build, 'FOLDER', tmp_path)
    unavailable = native.unavailable.__wrapped__
    assert 'was not built' in unavailable()
    other = tmp_path / f'{native_build.PREFIX}1_0_0.so'
    other.write_bytes(b'')
    assert f'another torch ({other.name})' in unavailable()
    stem = native_build.library_stem(torch.__version__)
    (tmp_path / f'{stem}.so').write_bytes(b'no library')
    assert 'does not load' in unavailable()


def test_a_library_of_other_sources_is_refused(monkeypatch):
    assert torch.ops.mmrfa.sources_digest() == native_build.sources_digest()
    monkeypatch.setattr(native_build, 'sources_digest', lambda: 'changed')
    reason = native.unavailable.__wrapped__()
    assert f'({native_build.library_stem(torch.__version__)}.so)' in reason
    assert 'built from other sources' in reason


def test_the_digest_follows_the_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(native_build, 'FOLDER', tmp_path)
    assert native_build.sources_digest() == ''  # a wheel ships none
    (tmp_path / 'csrc').mkdir()
    source = tmp_path / 'csrc' / 'kernels.h'
    found = set()
    for text in 'one', 'two':
        source.write_text(text)
        found.add(native_build.sources_digest())
    assert len(found) == 2 and '' not in found


def test_missing_kernels_are_told_once():
    code = (
        'import torch; from mmrfa.layers import RFAConv;'
        'from mmrfa.ops import native_build;'
        "native_build.PREFIX = 'no such library';"
        'layer = RFAConv(2, 2, 3);'
        '[layer(torch.randn(1, 2, 5, 5)) for _ in range(3)]'
    )
    result = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'MMRFA_BACKEND': ''},
    )
    assert result.returncode == 0, result.stderr
    told = 'mmrfa: the compiled CPU kernels are not used: its library was not'
    assert result.stderr.count(told) == 1


def no_triton() -> str:
    """Why the kernels of Triton do not run without a GPU, as installed."""
    try:
        found = metadata.version('triton')
    except metadata.PackageNotFoundError:
        return 'does not import'
    if tuple(map(int, found.split('.')[:2])) < (3, 7):
        return f'needs triton 3.7 or newer, got {found}'
    return 'needs a CUDA tensor'


def test_says_what_can_run():
    result = subprocess.run(
        [sys.executable, '-m', 'mmrfa.ops'],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'},
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert 'rfa_conv2d         cpu        runs' in lines
    assert 'aw_conv2d          reference  runs' in lines
    (line,) = [x for x in lines if x.startswith('rfca_conv2d        triton')]
    if not torch.cuda.is_available():
        assert no_triton() in line
    assert len(lines) == 18
