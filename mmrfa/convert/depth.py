"""Reading the depth of a ResNet from the names of its parameters."""

import re
from collections.abc import Iterable

from mmrfa.errors import InputError

DEPTHS = {
    ('BasicBlock', (2, 2, 2, 2)): 18,
    ('BasicBlock', (3, 4, 6, 3)): 34,
    ('Bottleneck', (3, 4, 6, 3)): 50,
    ('Bottleneck', (3, 4, 23, 3)): 101,
    ('Bottleneck', (3, 8, 36, 3)): 152,
}
BLOCK = re.compile(r'layer(\d)\.(\d+)\.')


def find_depth(names: Iterable[str], source: str) -> int:
    """Find the depth by the number of blocks of each stage.

    Args:
        names (Iterable[str]): of the parameters, without prefix.
        source (str): where they come from, for the error message.

    Returns:
        int: 18, 34, 50, 101 or 152.

    Raises:
        InputError: no ResNet of these depths.
    """
    names = list(names)
    blocks = {m.groups() for key in names if (m := BLOCK.match(key))}
    counts = tuple(
        sum(stage == str(number) for stage, _ in blocks)
        for number in range(1, 5)
    )
    deep = any(key.startswith('layer1.0.conv3.') for key in names)
    kind = 'Bottleneck' if deep else 'BasicBlock'
    if (kind, counts) not in DEPTHS:
        raise InputError(
            f'checkpoint {source}: expected the stages of a ResNet-18 (2, 2, '
            f'2, 2 blocks), -34, -50, -101 or -152, got {counts} blocks'
        )
    return DEPTHS[kind, counts]
