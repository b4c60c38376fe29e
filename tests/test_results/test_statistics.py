"""Statistics against numbers worked out by hand."""

from math import sqrt

import pytest

from mmrfa.results.statistics import (
    Difference,
    difference,
    probability_of_improvement,
    scores_by_seed,
)

from .rows import row


def test_difference_by_hand():
    """1, 2, 3, 6: mean 3, variance 14 / 3, t(0.975, 3) 3.18245."""
    found = Difference((1.0, 2.0, 3.0, 6.0), (0, 1, 2, 3))
    assert found.mean == 3
    assert found.deviation == pytest.approx(sqrt(14 / 3))
    half = 3.182446 * sqrt(14 / 3) / 2
    assert found.half_width == pytest.approx(half, rel=1e-6)
    assert found.interval == pytest.approx((3 - half, 3 + half))
    assert (found.wins, found.verdict) == (4, 'open')  # 3 - 3.44 < 0


@pytest.mark.parametrize(
    ('values', 'verdict'),
    [
        ((2.0, 2.1, 1.9), 'better'),
        ((-2.0, -2.1, -1.9), 'worse'),
        ((2.0,), 'open'),
        ((-1.0, 1.0), 'open'),
    ],
)
def test_verdicts(values, verdict):
    found = Difference(values, tuple(range(len(values))))
    assert found.verdict == verdict
    assert found.wins == sum(value > 0 for value in values)


@pytest.mark.parametrize(('seeds', 'width'), [(3, 2.48), (5, 1.24), (8, 0.84)])
def test_half_widths_in_deviations(seeds, width):
    """What the protocol says can be told apart."""
    values = tuple(float(value) for value in range(seeds))
    found = Difference(values, tuple(range(seeds)))
    assert found.half_width / found.deviation == pytest.approx(width, abs=0.01)


def test_seeds_are_paired():
    records = [
        row(form='plain', seed=1, val=20.0),
        row(form='plain', seed=0, val=10.0),
        row(form='RFAConv', seed=0, val=13.0),
        row(form='RFAConv', seed=2, val=50.0),
        row(form='RFAConv', seed=1, val=21.0, test=30.0),
        row(study='other', form='plain', seed=2, val=1.0),
    ]
    assert scores_by_seed(records, 'camvid', 'plain') == {0: 10, 1: 20}
    found = difference(records, 'camvid', 'RFAConv', 'plain')
    assert found == Difference((3.0, 10.0), (0, 1))
    assert difference(records, 'camvid', 'CAConv', 'plain') is None


def test_probability_by_hand():
    """2 of 4 pairs above and one equal; 1 of 1: (2.5 / 4 + 1) / 2."""
    pairs = [([1.0, 3.0], [1.0, 2.0]), ([5.0], [4.0])]
    exact, low, high = probability_of_improvement(pairs)
    assert exact == pytest.approx((2.5 / 4 + 1) / 2)
    # drawn anew: all pairs (1, 2) at worst, all (3, x) at best
    assert (low, high) == (0.5, 1.0)
    assert probability_of_improvement(pairs) == (exact, low, high)
    assert probability_of_improvement([([1.0], [2.0])]) == (0, 0, 0)
