"""The tiles among which the Triton kernels are tuned.

The same lists serve tuning on a GPU, compilation ahead of time (which refuses
spilled registers) and the interpreter, which takes the largest tile of each.
"""

# (positions, channels, warps) of a tile. Windows lie in registers: the more
# taps a kernel has (up to 9, 25, 49), the fewer values a thread may hold.
TILES = {
    ('features', 'last'): {
        9: [(32, 64, 8), (16, 64, 4), (8, 64, 4), (16, 32, 4)],
        25: [(8, 64, 4), (4, 64, 4)],
        49: [(4, 64, 4)],
    },
    ('features', 'first'): {
        9: [(512, 1, 4), (256, 1, 4), (128, 8, 4)],
        25: [(256, 1, 4), (32, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    ('features_backward', 'last'): {
        9: [(8, 64, 4), (4, 64, 4), (8, 32, 4)],
        25: [(4, 32, 4)],
        49: [(4, 32, 4)],
    },
    ('features_backward', 'first'): {
        9: [(256, 1, 4), (128, 1, 4), (32, 8, 4)],
        25: [(128, 1, 4), (16, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    ('input_gradient', 'last'): {
        9: [(32, 64, 4), (16, 64, 4), (16, 32, 4)],
        49: [(16, 64, 4), (16, 32, 4)],
    },
    ('input_gradient', 'first'): {
        49: [(512, 1, 4), (256, 1, 4), (64, 8, 4)],
    },
    ('outer_sums', 'last'): {49: [(4, 32, 4), (8, 32, 8)]},
    ('outer_sums', 'first'): {49: [(128, 1, 4), (256, 1, 8), (16, 8, 4)]},
}
# Accumulators of a thread in ``outer_sums``.
MOST_SUMS = 100


def configs(kernel: str, last: bool, taps: int) -> list[dict]:
    """Candidates for one kernel, best guess first.

    Args:
        kernel (str): name of a kernel in ``triton_kernels``.
        last (bool): whether the channels lie last in memory.
        taps (int): K, 1 to 49.

    Returns:
        list[dict]: constants of the kernel and ``num_warps``.
    """
    by_taps = TILES[kernel, 'last' if last else 'first']
    tiles = by_taps[min(most for most in by_taps if taps <= most)]
    constants = {}
    if kernel == 'outer_sums':
        constants['ROWS'] = min(taps, MOST_SUMS // (taps + 1))
    return [
        dict(BLOCK_P=positions, BLOCK_C=channels, num_warps=warps, **constants)
        for positions, channels, warps in tiles
    ]
