"""Choosing a backend, and being told why not."""

import pytest

import mmrfa.ops
from mmrfa.errors import InputError
from mmrfa.ops import BACKENDS, dispatch, forced_backend, use_backend


@pytest.fixture
def double(monkeypatch):
    """An operator with a form that takes positive numbers only."""
    monkeypatch.setattr(dispatch, 'BACKENDS', ('fast', 'reference'))
    monkeypatch.delenv('MMRFA_BACKEND', raising=False)

    def twice(x):
        """Double x."""
        return 'reference', 2 * x

    fast = dispatch.Backend(
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


def test_environment_variable(double, monkeypatch):
    monkeypatch.setenv('MMRFA_BACKEND', 'reference')
    assert double(1) == ('reference', 2)
    with use_backend('fast'):
        assert double(1) == ('fast', 2)
    monkeypatch.setenv('MMRFA_BACKEND', 'nonsense')
    with pytest.raises(InputError, match='variable MMRFA_BACKEND: expected'):
        double(1)


def test_backend_without_a_form_of_the_operator(monkeypatch):
    monkeypatch.setattr(dispatch, 'BACKENDS', ('fast', 'reference'))
    only = dispatch.operator(lambda x: x)
    with use_backend('fast'):
        assert only(3) == 3


def test_a_form_that_is_not_automatic(monkeypatch):
    """Runs where it is named, and there alone."""
    monkeypatch.setattr(dispatch, 'BACKENDS', ('fast', 'reference'))
    monkeypatch.delenv('MMRFA_BACKEND', raising=False)
    shy = dispatch.Backend(lambda x: 'fast', lambda x: None, automatic=False)
    call = dispatch.operator(lambda x: 'reference', fast=shy)
    assert call(1) == 'reference'
    assert call(1, backend='fast') == 'fast'
    with use_backend('fast'):
        assert call(1) == 'fast'
        with use_backend(None):
            assert call(1) == 'reference'
    monkeypatch.setenv('MMRFA_BACKEND', 'fast')
    assert call(1) == 'fast'


def test_real_operators_have_a_reference():
    ours = [op for op in vars(mmrfa.ops).values() if hasattr(op, 'backends')]
    assert len(ours) == 5
    assert all(op.backends[-1] == 'reference' for op in ours)
    assert BACKENDS[-1] == 'reference'


def test_reference_can_be_named(monkeypatch):
    monkeypatch.delenv('MMRFA_BACKEND', raising=False)
    assert forced_backend() is None
    with use_backend('reference'):
        assert forced_backend() == 'reference'
