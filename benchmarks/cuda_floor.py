"""Estimate the least time of RFAConv on a GPU from bytes and operations.

    python benchmarks/cuda_floor.py

prints the table of ``mmrfa/ops/rfa/README.md``. Nothing is measured: a step
takes the longest of its memory traffic, vector arithmetic, exponentials and
matrix product at the rates that the card is sold with, and steps follow each
other. Figures: Conv2d / least / chip / memory.
"""

from report import table

# Bytes a second, float32 vector and bfloat16 matrix operations a second.
# Exponentials have units of their own: 1 for 8 vector multiply-adds.
CARDS = {
    'H100': (3.35e12, 67e12, 990e12),
    'H200': (4.8e12, 67e12, 990e12),
}
EXPONENTIAL = 8
# Channels in and out and pixels of the 3x3 layers of ResNet-18 at 224x224.
SHAPES = [(64, 56), (128, 28), (256, 14), (512, 7)]
BATCH, TAPS, SIZE = 32, 9, 2  # bfloat16
PLANES = TAPS * SIZE

# A step, per value of the input, which is as large as the output: bytes,
# vector multiply-adds, exponentials, 1 where the step is a product with the
# O x C*K weight, and how many outputs a tile has where it makes its features
# once for each. An exponential is made for the sum of the softmax and again
# for its terms.
FORWARD = (81 + 9 + 4 * TAPS, 2 * TAPS)
BACKWARD = (81 + 9 + 8 * TAPS, 3 * TAPS)
FEATURES = (SIZE + PLANES, *FORWARD, 0, None)
PRODUCT = (PLANES + SIZE, 0, 0, 1, None)
MOMENTS = (SIZE, 45 + 9, 0, 0, None)
REST = [
    (SIZE + PLANES, 81 + 9, 0, 0, None),  # sums, for the gradient of v and b
    (PLANES + SIZE + SIZE, 81 + 9, 0, 0, None),  # gradient of the input
    (2 * SIZE, 81, 0, 0, None),  # its part through the moments
    (3 * SIZE, 1, 0, 0, None),  # the sum of the two parts
]
STEPS = {
    'Conv2d': {
        'inference': [(2 * SIZE, 0, 0, 1, None)],
        'training': [(6 * SIZE, 0, 0, 3, None)],
    },
    # What cannot be avoided: each tensor of the size of the input once a pass,
    # two passes each way where statistics of the whole batch are needed, and
    # each exponential once.
    'least': {
        'inference': [(2 * SIZE, 81 + 9 + 4 * TAPS, TAPS, 1, None)],
        'training': [
            (9 * SIZE, 54 + 2 * 126 + 3 * 81, 2 * TAPS, 3, None),
        ],
    },
    # The ways of mmrfa/ops/primitives/gpu/conv.py.
    'chip': {
        'inference': [(2 * SIZE, *FORWARD, 1, 256)],
        'training': [
            MOMENTS,
            (2 * SIZE, *FORWARD, 1, 256),
            (2 * SIZE, *FORWARD, 1, 128),  # gradient of the weight
            # gradient of the activations
            (2 * SIZE + PLANES + SIZE, *BACKWARD, 1, None),
            *REST,
        ],
    },
    'memory': {
        'inference': [FEATURES, PRODUCT],
        'training': [
            MOMENTS,
            FEATURES,
            PRODUCT,
            FEATURES,  # again, for the gradient of the weight
            PRODUCT,  # gradient of the weight
            PRODUCT,  # gradient of the weighted features
            (SIZE + 2 * PLANES + SIZE, *BACKWARD, 0, None),
            *REST,
        ],
    },
}


def repeated(step: tuple, channels: int) -> int:
    """How often a step makes its features."""
    outputs = step[4]
    return -(-channels // outputs) if outputs else 1


def seconds(step: tuple, channels: int, pixels: int, card: str) -> float:
    """The least time of one step."""
    bandwidth, vector, matrix = CARDS[card]
    traffic, adds, exponentials, products, _ = step
    values = BATCH * channels * pixels**2
    weight = products * channels * channels * PLANES
    times = 2 * repeated(step, channels)
    return max(
        (values * traffic + weight) / bandwidth,
        values * adds * times / vector,
        values * exponentials * EXPONENTIAL * times / vector,
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
                totals(way[name], channels, pixels) for way in STEPS.values()
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
