"""Wrong values for every key of a config, one at a time."""

import math
import os
import random
import shutil
import signal
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from mmengine.config import Config
from test_tools.tool_calls import forget_instances

from mmrfa.engine.config import set_work_dir
from mmrfa.engine.run import build_runner
from mmrfa.errors import InputError

MISSING = object()
EXTRA = 'no_such_key'
INF, NAN = float('inf'), float('nan')
WRONG = (None, -1, 0, 1.5, INF, NAN, 'nonsense', [], {}, [None], MISSING)


class Mutant(NamedTuple):
    """One key of a config and what it is to hold.

    Attributes:
        path (tuple): keys and indices from the top.
        value (object): ``MISSING`` takes the key out.
    """

    path: tuple
    value: object

    def of(self, tree: dict) -> Config:
        """The config with it."""
        tree = deepcopy(tree)
        node = tree
        for part in self.path[:-1]:
            node = node[part]
        if self.value is MISSING:
            del node[self.path[-1]]
        else:
            node[self.path[-1]] = deepcopy(self.value)
        return Config(tree, format_python_code=False)

    def __str__(self) -> str:
        value = 'missing' if self.value is MISSING else repr(self.value)
        return f'{".".join(map(str, self.path))} = {value}'


def mutants(node: object, path: tuple = ()) -> Iterator[Mutant]:
    """All of them, of a tree of dicts and lists."""
    if isinstance(node, dict):
        if path:
            yield Mutant((*path, EXTRA), 1)
        entries = list(node.items())
    elif isinstance(node, list):
        # Of colours, sizes and the like one stands for all.
        inner = any(isinstance(child, dict) for child in node)
        entries = list(enumerate(node if inner else node[:1]))
    else:
        return
    for key, child in entries:
        for value in WRONG:
            if value is MISSING or repr(value) != repr(child):
                yield Mutant((*path, key), value)
        yield from mutants(child, (*path, key))


def failures(tree: dict, folder: Path, count: int | None) -> list[str]:
    """Train with mutants and see what is not clean.

    Args:
        tree (dict): a config that trains in a blink, ``work_dir`` is
            ``work``.
        folder (Path): empty, becomes the current one.
        count (int | None): how many, drawn with a fixed seed; None for all.

    Returns:
        list[str]: one line for each mutant that neither ran nor ended in one
        line of an InputError that names its place, before anything was
        written.
    """
    every = list(mutants(tree))
    chosen = every if count is None else random.Random(0).sample(every, count)
    assert outcome(tree, folder) == ''
    found = []
    for mutant in chosen:
        try:
            wrong = outcome(mutant.of(tree), folder, mutant)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong = f'{type(error).__name__}: {error}'
        if wrong:
            found.append(f'{mutant}: {wrong}')
    return found


def outcome(
    config: Config | dict, folder: Path, mutant: Mutant | None = None
) -> str:
    """Train; what is not clean about how it ends."""
    if isinstance(config, dict):
        config = Config(deepcopy(config), format_python_code=False)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    before = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(60)
    try:
        set_work_dir(config, None if config.get('work_dir') else 'work')
        forget_instances()
        with (
            mock.patch('mmengine.runner.runner.collect_env', dict),
            warnings.catch_warnings(action='ignore'),
        ):
            build_runner(config, 'none', train=True).train()
    except InputError as error:
        if mutant is None:
            raise
        if os.listdir(folder):
            return f'written before: {error}'
        return '' if names(str(error), mutant) else f'not named: {error}'
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    value = mutant.value if mutant else 0
    return 'ran' if isinstance(value, float) and math.isnan(value) else ''


def names(text: str, mutant: Mutant) -> bool:
    """Whether an error says where it is.

    What a pipeline leaves out, or makes wrong, the network finds out.
    """
    key, *_ = places = [part for part in mutant.path if isinstance(part, str)]
    known = {places[-1], f'{key}.', f'{key}:', f'{key} ', f'{key}['}
    if key == 'default_scope':
        known.add('in scope ')
    if 'pipeline' in places:
        known.add('model.')
    return '\n' not in text and any(name in text for name in known)


def _hang(*_) -> None:
    raise TimeoutError('hangs')
