"""The tiles among which the Triton kernels are tuned.

The same lists serve tuning on a GPU, compilation ahead of time (which refuses
spilled registers) and the interpreter, which takes the largest tile of each.
"""

# What is not an argument of a kernel.
OPTIONS = ('num_warps', 'num_stages', 'maxnreg')
# (positions, channels, warps) of a tile, for kernels of up to 9 and up to 49
# taps. Windows lie in registers: more taps leave room for fewer values.
TILES = {
    ('features', 'last'): {
        9: [(32, 64, 8), (16, 64, 4), (8, 64, 4)],
        49: [(4, 64, 4)],
    },
    ('features', 'first'): {
        9: [(512, 1, 4), (256, 1, 4), (128, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    ('features_backward', 'last'): {
        9: [(16, 64, 8), (8, 64, 4), (8, 32, 4)],
        49: [(4, 32, 4)],
    },
    ('features_backward', 'first'): {
        9: [(256, 1, 4), (128, 1, 4), (32, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    ('unfold_backward', 'last'): {
        9: [(32, 64, 8), (16, 64, 4), (8, 64, 4)],
        49: [(4, 64, 4)],
    },
    ('unfold_backward', 'first'): {
        9: [(512, 1, 4), (256, 1, 4), (128, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    ('input_gradient', 'last'): {
        9: [(32, 64, 4), (32, 64, 8), (16, 32, 4)],
        49: [(16, 64, 4)],
    },
    ('input_gradient', 'first'): {
        9: [(512, 1, 4), (256, 1, 4), (64, 8, 4)],
        49: [(256, 1, 4), (64, 8, 4)],
    },
    ('outer_sums', 'last'): {
        9: [(4, 32, 4), (8, 32, 8)],
        49: [(4, 32, 4)],
    },
    ('outer_sums', 'first'): {
        9: [(128, 1, 4), (256, 1, 8), (16, 8, 4)],
        49: [(128, 1, 4), (16, 8, 4)],
    },
    # A fourth figure: outputs.
    ('conv', 'last'): {
        9: [
            (64, 32, 8, 64),
            (64, 32, 8, 128),
            (64, 32, 8, 256),
            (128, 16, 8, 128),
            (32, 32, 4, 64),
        ],
    },
    ('conv_weight', 'last'): {
        9: [(32, 32, 8, 64), (64, 16, 8, 64), (32, 16, 8, 128)],
    },
    ('conv_input', 'last'): {
        9: [(32, 32, 8, 64), (32, 32, 8, 128), (32, 16, 4, 64)],
    },
}
# Tiles that leave no registers for longer addresses.
PLAIN_ONLY = {
    ('features', 128, 8, 4),
    ('input_gradient', 32, 64, 4),
    ('unfold_backward', 128, 8, 4),
    ('conv', 64, 32, 8, 256),
    ('conv', 128, 16, 8, 128),
    ('conv_weight', 32, 32, 8, 64),
}
# Kernels that read the channels last alone.
LAST_ONLY = {'conv', 'conv_weight', 'conv_input'}
# Accumulators of a thread in ``outer_sums`` beyond 9 taps.
MOST_SUMS = 60
# Without a bound the assembler aims at an occupancy, and spills for it.
MOST_REGISTERS = 255


def axes(kernel: str) -> list[tuple[str, str]]:
    """What a grid has beside positions: what is cut, and into which blocks."""
    channels, outputs = ('CHANNELS', 'BLOCK_C'), ('OUTPUTS', 'BLOCK_O')
    if kernel == 'conv':
        return [outputs]
    if kernel == 'conv_weight':
        return [channels, outputs]
    if kernel == 'outer_sums':
        return [channels, ('TAPS', 'ROWS')]
    return [channels]


def configs(kernel: str, last: bool, taps: int, plain: bool) -> list[dict]:
    """Candidates for one kernel, best guess first.

    Args:
        kernel (str): name of a kernel.
        last (bool): whether the channels lie last in memory.
        taps (int): K, 1 to 49.
        plain (bool): whether addresses are short: offsets have 31 bits, and
            16 divides the number of channels.

    Returns:
        list[dict]: constants of the kernel, and OPTIONS of its compilation.
    """
    by_taps = TILES[kernel, 'last' if last else 'first']
    tiles = by_taps[min(most for most in by_taps if taps <= most)]
    constants = {}
    if kernel == 'outer_sums':
        rows = taps if taps <= 9 else max(1, MOST_SUMS // (taps + 1))
        constants['ROWS'] = rows
    if kernel == 'features_backward':
        constants['BLOCK_O'] = 1  # without effect there
    found = []
    for positions, channels, warps, *outputs in tiles:
        key = kernel, positions, channels, warps, *outputs
        if key in PLAIN_ONLY and not plain:
            continue
        tile = dict(BLOCK_P=positions, BLOCK_C=channels, num_warps=warps)
        if outputs:
            tile['BLOCK_O'] = outputs[0]
        # Loads of small operands gain nothing from pipelines, in registers
        # and shared memory they cost more than they bring.
        found.append(
            dict(**tile, **constants, num_stages=1, maxnreg=MOST_REGISTERS)
        )
    return found
