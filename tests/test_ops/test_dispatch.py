"""Choosing a backend, and being told why not."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

import mmrfa.layers
import mmrfa.ops
from mmrfa.errors import InputError
from mmrfa.ops import BACKENDS, dispatch, forced_backend, use_backend
from mmrfa.testing import new_torch


@pytest.fixture
def double(monkeypatch):
    """An operator with a form that takes positive numbers only."""
    monkeypatch.setattr(dispatch, 'BACKENDS', ('fast', 'reference'))
    monkeypatch.setattr(dispatch, '_forced', (None, 'backend'))

    def twice(x):
        """Double x."""
        return 'reference', 2 * x

    fast = dispatch.Form(
        lambda x: ('fast', x + x),
        lambda x: None if x > 0 else f'needs x > 0, got {x}',
    )
    return dispatch.operator(twice, fast=fast)


def test_picks_the_first_that_can_run(double):
    assert double.__doc__ == 'Double x.'
    assert double.backends == ('fast', 'reference')
    assert double(1) == ('fast', 2)
    assert double(-1) == ('reference', -2)


def test_named_backend_runs_or_raises(double):
    assert double(1, backend='reference') == ('reference', 2)
    with pytest.raises(RuntimeError, match=r"'fast'.*twice: needs x > 0"):
        double(-1, backend='fast')
    with pytest.raises(InputError, match="one of fast, reference, got 'x'"):
        double(1, backend='x')


def test_use_backend_nests_and_is_restored(double):
    with use_backend('reference'):
        assert double(1) == ('reference', 2)
        with use_backend(None):
            assert double(1) == ('fast', 2)
        assert double(1) == ('reference', 2)
        assert double(1, backend='fast') == ('fast', 2)
    with pytest.raises(ZeroDivisionError), use_backend('reference'):
        _ = 1 / 0
    assert double(1) == ('fast', 2)


def test_every_thread_is_told(double):
    with use_backend('reference'), ThreadPoolExecutor(1) as pool:
        assert pool.submit(double, 1).result() == ('reference', 2)


def test_blocks_that_overlap(double):
    """As those of two threads do."""
    one, two = use_backend('reference'), use_backend('fast')
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert double(1)[0] == forced_backend() == 'fast'
    two.__exit__(None, None, None)
    assert forced_backend() is None


def test_blocks_of_threads_leave_nothing(monkeypatch):
    """Each finds its own entry and takes it out before another one does."""

    class Slow(list):
        def __delitem__(self, index):
            time.sleep(0.05)
            super().__delitem__(index)

    said = Slow(dispatch._said)
    monkeypatch.setattr(dispatch, '_said', said)
    inside = Barrier(3)

    def enter_and_leave(name: str) -> None:
        with use_backend(name):
            inside.wait(10)

    before = said[:]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(enter_and_leave, ['fused', 'reference', 'fused']))
    assert said == before and dispatch._forced is before[-1]


def test_no_input():
    with pytest.raises(TypeError, match="rfa_conv2d.*'x'"):
        mmrfa.ops.rfa_conv2d(window=None)


@pytest.mark.parametrize(
    ('name', 'answer'),
    [
        ('fused', 'fused\n'),
        ('nonsense', 'MMRFA_BACKEND: expected one of compiled, fused, refer'),
        ('cpu', "MMRFA_BACKEND: 'cpu' is called 'compiled' now"),
        ('triton', "MMRFA_BACKEND: 'triton' is called 'compiled' now"),
    ],
)
def test_environment_variable(name, answer):
    code = 'from mmrfa.ops import forced_backend; print(forced_backend())'
    found = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | dict(MMRFA_BACKEND=name),
        capture_output=True,
        text=True,
    )
    assert answer in found.stdout + found.stderr


def test_backend_without_such_a_form(monkeypatch):
    """Insisting means insisting."""
    monkeypatch.setattr(dispatch, 'BACKENDS', ('fast', 'reference'))

    def only(x):
        return x

    operator = dispatch.operator(only)
    assert operator(3) == 3
    with use_backend('fast'):
        with pytest.raises(RuntimeError, match='only: it has reference only'):
            operator(3)


def test_a_form_that_is_not_automatic(monkeypatch):
    """Runs where it is named, and there alone."""
    monkeypatch.setattr(dispatch, 'BACKENDS', ('fast', 'reference'))
    monkeypatch.setattr(dispatch, '_forced', (None, 'backend'))
    shy = dispatch.Form(
        lambda x: 'fast', lambda x: None, lambda x: 'it is shy'
    )
    call = dispatch.operator(lambda x: 'reference', fast=shy)
    assert call(1) == 'reference'
    assert call(1, backend='fast') == 'fast'
    with use_backend('fast'):
        assert call(1) == 'fast'
        with use_backend(None):
            assert call(1) == 'reference'


@new_torch
def test_compilers_watch_the_choice():
    """A change of it is not lost in what was compiled before."""
    layer = mmrfa.layers.RFAConv(2, 2, 3).double()
    compiled = torch.compile(layer, fullgraph=True, backend='eager')
    x = torch.randn(1, 2, 5, 5).double()
    with use_backend(None):
        torch.testing.assert_close(compiled(x), layer(x))
    with use_backend('compiled'), pytest.raises(Exception, match='float64'):
        compiled(x)


def test_real_operators_have_a_reference():
    ours = [op for op in vars(mmrfa.ops).values() if hasattr(op, 'backends')]
    assert len(ours) == 5
    assert all(op.backends[-1] == 'reference' for op in ours)
    assert BACKENDS[-1] == 'reference'


def test_reference_can_be_named(monkeypatch):
    monkeypatch.setattr(dispatch, '_forced', (None, 'backend'))
    assert forced_backend() is None
    with use_backend('reference'):
        assert forced_backend() == 'reference'
