"""Wrong values for every key of a config, one at a time."""

from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

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

    def apply(self, config: dict) -> None:
        """Change a config in place."""
        node = config
        for part in self.path[:-1]:
            node = node[part]
        if self.value is MISSING:
            del node[self.path[-1]]
        else:
            node[self.path[-1]] = deepcopy(self.value)

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
        # of colours, sizes and the like one stands for all
        inner = any(isinstance(child, dict) for child in node)
        entries = list(enumerate(node if inner else node[:1]))
    else:
        return
    for key, child in entries:
        for value in WRONG:
            if value is MISSING or repr(value) != repr(child):
                yield Mutant((*path, key), value)
        yield from mutants(child, (*path, key))
