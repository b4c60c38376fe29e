"""What the seeds of two forms say about their difference."""

from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from scipy import stats

from mmrfa.results.records import Record


@dataclass(frozen=True)
class Difference:
    """A form against another one, of the same seeds.

    Attributes:
        values (tuple[float, ...]): the form less the other, seed by seed.
        seeds (tuple[int, ...]): which.
    """

    values: tuple[float, ...]
    seeds: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Of the differences."""
        return mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation; None of one value."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval by Student's t; None of one value."""
        if self.deviation is None:
            return None
        count = len(self.values)
        return stats.t.ppf(0.975, count - 1) * self.deviation / count**0.5

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean; None of one value."""
        if self.half_width is None:
            return None
        return self.mean - self.half_width, self.mean + self.half_width

    @property
    def wins(self) -> int:
        """Seeds for which the form is above the other."""
        return sum(value > 0 for value in self.values)

    @property
    def verdict(self) -> str:
        """'better' or 'worse' where the interval leaves 0 out, else 'open'."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return 'open'
        return 'better' if self.mean > 0 else 'worse'


def scores_by_seed(
    records: list[Record], study: str, form: str
) -> dict[int, float]:
    """The scores of a form, in per cent, by seed in ascending order."""
    found = {
        r.seed: r.score for r in records if (r.study, r.form) == (study, form)
    }
    return dict(sorted(found.items()))


def difference(
    records: list[Record], study: str, form: str, other: str
) -> Difference | None:
    """Compare two forms of a study by their common seeds.

    Args:
        records (list[Record]): rows of any study.
        study (str): its name.
        form (str): the one.
        other (str): the one it is compared with.

    Returns:
        Difference | None: None without a common seed.
    """
    ours = scores_by_seed(records, study, form)
    theirs = scores_by_seed(records, study, other)
    seeds = tuple(seed for seed in ours if seed in theirs)
    if not seeds:
        return None
    return Difference(
        tuple(ours[seed] - theirs[seed] for seed in seeds), seeds
    )


def probability_of_improvement(
    pairs: list[tuple[list[float], list[float]]],
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How likely a run of one form is above a run of another, over studies.

    The measure of Agarwal et al., Deep RL at the Edge of the Statistical
    Precipice (arXiv:2108.13264): the share of pairs of runs in which the one
    is above, ties by half, averaged over the studies. Runs are drawn anew
    within each study (stratified bootstrap) for the interval, of percentiles.

    Args:
        pairs (list): of each study, the scores of the one and of the other.
        draws (int): of the bootstrap. Defaults to 2000.
        seed (int): of the draws. Defaults to 0.

    Returns:
        tuple[float, float, float]: the probability and its 95 % interval.
    """
    random = np.random.default_rng(seed)

    def share(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        apart = ours[..., :, None] - theirs[..., None, :]
        return ((apart > 0) + 0.5 * (apart == 0)).mean((-2, -1))

    def drawn(values: list[float]) -> np.ndarray:
        return random.choice(np.array(values), (draws, len(values)))

    exact = np.mean([share(np.array(a), np.array(b)) for a, b in pairs])
    again = np.mean([share(drawn(a), drawn(b)) for a, b in pairs], 0)
    low, high = np.percentile(again, [2.5, 97.5])
    return float(exact), float(low), float(high)
