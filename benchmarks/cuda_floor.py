"""Estimate the least time of RFAConv on a GPU from bytes and operations.

    python benchmarks/cuda_floor.py

prints the table of ``mmrfa/ops/rfa/README.md``. Nothing is measured: a step
takes the longest of its memory traffic, its vector arithmetic and its matrix
product at the rates that the card is sold with, and steps follow each other.
Columns: Conv2d / least / fused / planes.
"""

from report import table

# Bytes a second, float32 vector and bfloat16 matrix operations a second.
CARDS = {
    'H100': (3.35e12, 67e12, 990e12),
    'H200': (4.8e12, 67e12, 990e12),
}
# Channels in and out and pixels of the 3x3 layers of ResNet-18 at 224x224.
SHAPES = [(64, 56), (128, 28), (256, 14), (512, 7)]
BATCH, TAPS, SIZE = 32, 9, 2  # bfloat16
PLANES = TAPS * SIZE

# A step, per value of the input, which is as large as the output: bytes,
# vector multiply-adds, 1 where the step is a product with the O x C*K weight,
# and how many outputs a tile has where it makes its features once for each.
# Exponentials go to units of their own, at a quarter of the rate of these.
FEATURES = (SIZE + PLANES, 81 + 9 + 4 * TAPS, 0, None)
PRODUCT = (PLANES + SIZE, 0, 1, None)
MOMENTS = (SIZE, 45 + 9, 0, None)
SUMS = (SIZE + PLANES, 81 + 9, 0, None)  # for the gradient of v and b
GATHER = (PLANES + SIZE + SIZE, 81 + 9, 0, None)  # gradient of the input
STATISTICS = [
    (2 * SIZE, 81, 0, None),  # the input's gradient through the moments
    (3 * SIZE, 1, 0, None),  # the sum of its two parts
]
STEPS = {
    # The ways of mmrfa/ops/triton_conv.py.
    'fused': {
        'inference': [(2 * SIZE, 81 + 9 + 4 * TAPS, 1, 256)],
        'training': [
            MOMENTS,
            (2 * SIZE, 81 + 9 + 4 * TAPS, 1, 256),
            (2 * SIZE, 81 + 9 + 4 * TAPS, 1, 128),  # gradient of the weight
            # gradient of the activations
            (2 * SIZE + PLANES + SIZE, 81 + 9 + 8 * TAPS, 1, None),
            SUMS,
            GATHER,
            *STATISTICS,
        ],
    },
    'planes': {
        'inference': [FEATURES, PRODUCT],
        'training': [
            MOMENTS,
            FEATURES,
            PRODUCT,
            FEATURES,  # again, for the gradient of the weight
            PRODUCT,  # gradient of the weight
            PRODUCT,  # gradient of the weighted features
            (SIZE + 2 * PLANES + SIZE, 81 + 9 + 8 * TAPS, 0, None),
            SUMS,
            GATHER,
            *STATISTICS,
        ],
    },
}
# What cannot be avoided: each tensor of the size of the input once a pass,
# and two passes each way where statistics of the whole batch are needed.
STEPS['least'] = {
    'inference': [(2 * SIZE, 81 + 9 + 4 * TAPS, 1, None)],
    'training': [(9 * SIZE, 54 + 2 * 126 + 3 * 81, 3, None)],
}
STEPS['Conv2d'] = {
    'inference': [(2 * SIZE, 0, 1, None)],
    'training': [(6 * SIZE, 0, 3, None)],
}
SHOWN = ('Conv2d', 'least', 'fused', 'planes')


def repeated(step: tuple, channels: int) -> int:
    """How often a step makes its features."""
    outputs = step[3]
    return -(-channels // outputs) if outputs else 1


def seconds(step: tuple, channels: int, pixels: int, card: str) -> float:
    """The least time of one step."""
    bandwidth, vector, matrix = CARDS[card]
    traffic, adds, products, _ = step
    values = BATCH * channels * pixels**2
    weight = products * channels * channels * PLANES
    return max(
        (values * traffic + weight) / bandwidth,
        values * 2 * adds * repeated(step, channels) / vector,
        values * 2 * products * TAPS * channels / matrix,
    )


def totals(steps: list, channels: int, pixels: int) -> dict[str, float]:
    """Sums over the steps, by the head of their column."""
    values = BATCH * channels * pixels**2
    adds = sum(step[1] * repeated(step, channels) for step in steps)
    found = {
        'MB': values * sum(step[0] for step in steps) / 1e6,
        'vector GFLOP': values * 2 * adds / 1e9,
    }
    for card in CARDS:
        spent = sum(seconds(step, channels, pixels, card) for step in steps)
        found[f'{card}, µs'] = spent * 1e6
    return found


def floors() -> list[str]:
    """Markdown: bytes, operations and times per layer and pass."""
    rows = []
    for channels, pixels in SHAPES:
        for name in ('inference', 'training'):
            ways = [
                totals(STEPS[way][name], channels, pixels) for way in SHOWN
            ]
            row = [f'{channels} @ {pixels}x{pixels}', name]
            for column in ways[0]:
                digits = 1 if 'GFLOP' in column else 0
                row.append(
                    ' / '.join(f'{way[column]:.{digits}f}' for way in ways)
                )
            rows.append(row)
    return table(['layer', 'pass', *ways[0]], rows)


if __name__ == '__main__':
    print('\n'.join(floors()))
