"""Random numbers that depend on the place in a run and on nothing before.

So a run that was killed and goes on draws what it would have drawn, whatever
the number of workers.
"""

import functools
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset, Sampler

# Keeps the numbers of both apart.
_STEP, _SAMPLE = 1, 2


def seed_all(*numbers: int) -> None:
    """Seed Python, NumPy and torch.

    Args:
        numbers (int): of the place in the run, none below 0.
    """
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))


class StepSeedHook(Hook):
    """Seeds each step: dropout, samplers of boxes and whatever else draws."""

    priority = 'HIGHEST'

    def before_train_iter(self, runner: Runner, *_, **__) -> None:
        seed_all(_STEP, runner.seed, get_rank(), runner.iter)


class Draw(int):
    """An index of a data set, and the place at which it was drawn.

    Args:
        index (int): of the sample.
        place (tuple[int, ...]): kind, seed, rank, pass, position.
    """

    def __new__(cls, index: int, place: tuple[int, ...] = ()) -> 'Draw':
        made = super().__new__(cls, index)
        made.place = place
        return made


def seed_samples(loader: DataLoader, seed: int) -> DataLoader:
    """Seed the loading of each sample by its place in the run.

    The sampler and the data set stay what they are; each gets one method
    more.

    Args:
        loader (DataLoader): nothing was drawn from it yet.
        seed (int): of the run.

    Returns:
        DataLoader: the same.
    """
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    dataset = loader.dataset
    if isinstance(sampler, Sampler) and isinstance(dataset, Dataset):
        sampler.__class__ = _placed(type(sampler))
        sampler.place = _SAMPLE, seed, get_rank()
        dataset.__class__ = _seeded(type(dataset))
    return loader


@functools.cache
def _placed(kind: type) -> type:
    """A kind of sampler that says where it drew each index."""

    class Placed(kind):
        passes = skipped = 0
        __reduce_ex__ = _rebuilt_by(_placed, kind)

        def __iter__(self) -> Iterator[Draw]:
            number = getattr(self, 'epoch', 0) or self.passes
            self.passes += 1
            for position, index in enumerate(super().__iter__(), self.skipped):
                yield Draw(index, (*self.place, number, position))

        if hasattr(kind, 'skip'):

            def skip(self, num_samples: int) -> None:
                self.skipped = num_samples
                super().skip(num_samples)

    Placed.__name__ = kind.__name__
    return Placed


@functools.cache
def _seeded(kind: type) -> type:
    """A kind of data set that seeds the loading of what was drawn."""

    class Seeded(kind):
        __reduce_ex__ = _rebuilt_by(_seeded, kind)

        def __getitem__(self, index: int) -> object:
            if isinstance(index, Draw):
                seed_all(*index.place)
                index = int(index)
            return super().__getitem__(index)

    Seeded.__name__ = kind.__name__
    return Seeded


def _rebuilt_by(factory: Callable[[type], type], kind: type) -> Callable:
    """How workers that are spawned get objects of a class made here."""

    def reduce(self, _: int) -> tuple:
        return _blank, (factory, kind), self.__dict__

    return reduce


def _blank(factory: Callable[[type], type], kind: type) -> object:
    made = factory(kind)
    return made.__new__(made)
