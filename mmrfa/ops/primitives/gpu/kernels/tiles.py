"""A kernel and the tiles among which it is tuned, written beside it.

The same lists serve tuning on a GPU and compilation ahead of time, which
refuses spilled registers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import triton

# What is not an argument of a kernel.
OPTIONS = ('num_warps', 'num_stages', 'maxnreg')
# Compiled once for images of any size. ``bits``, those of ``count``, has no
# effect: tiles are tuned for each order of magnitude, not for each size.
SIZES = ['count', 'bits', 'span', 'height', 'width', 'out_height', 'out_width']
# Without a bound the assembler aims at an occupancy, and spills for it.
MOST_REGISTERS = 255

# Positions, channels and warps, and outputs where there are any. Windows lie
# in registers: more taps leave room for fewer values.
Tile = tuple[int, ...]
ByTaps = dict[int, list[Tile]]  # keyed by the number of taps they end at


class Kernel(NamedTuple):
    """A kernel as ``launch.start`` takes it.

    Attributes:
        run (Any): the function, compiled by Triton at its first use.
        last (dict): tiles for channels that lie last, best guess first.
        first (dict | None): for those that lie first; None: never do.
        plain_only (set): tiles that leave no registers for longer addresses.
        axes (tuple): what a grid has beside positions: what is cut, and into
            which blocks.
        constants (Callable): more constants of a tile, from the taps.
    """

    run: Any
    last: ByTaps
    first: ByTaps | None
    plain_only: set[Tile]
    axes: tuple[tuple[str, str], ...]
    constants: Callable[[int], dict[str, int]]

    def configs(self, last: bool, taps: int, plain: bool) -> list[dict]:
        """Candidates, best guess first.

        Args:
            last (bool): whether the channels lie last in memory.
            taps (int): K, 1 to 49.
            plain (bool): whether addresses are short: offsets have 31 bits,
                and 16 divides the number of channels.

        Returns:
            list[dict]: constants of the kernel, and OPTIONS of its
            compilation.
        """
        by_taps = self.last if last else self.first
        tiles = by_taps[min(most for most in by_taps if taps <= most)]
        found = []
        for tile in tiles:
            if tile in self.plain_only and not plain:
                continue
            positions, channels, warps, *outputs = tile
            config = dict(BLOCK_P=positions, BLOCK_C=channels, num_warps=warps)
            config |= self.constants(taps)
            if outputs:
                config['BLOCK_O'] = outputs[0]
            # Loads of small operands gain nothing from pipelines, in registers
            # and shared memory they cost more than they bring.
            found.append(config | dict(num_stages=1, maxnreg=MOST_REGISTERS))
        return found


def tiled(
    last: ByTaps,
    first: ByTaps | None = None,
    plain_only: set[Tile] = frozenset(),
    axes: tuple[tuple[str, str], ...] = (('CHANNELS', 'BLOCK_C'),),
    constants: Callable[[int], dict[str, int]] = lambda taps: {},
) -> Callable[[Callable], Kernel]:
    """Make a kernel of a function; arguments as in :class:`Kernel`."""

    def decorate(run: Callable) -> Kernel:
        run = triton.jit(run, do_not_specialize=SIZES)
        return Kernel(run, last, first, plain_only, axes, constants)

    return decorate
