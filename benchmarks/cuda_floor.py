"""Estimate the least time of RFAConv on a GPU from bytes and operations.

    python benchmarks/cuda_floor.py

prints the table of ``mmrfa/ops/rfa/README.md``. Nothing is measured: a step
takes the longest of its memory traffic, its vector arithmetic and its matrix
product at the rates that the card is sold with, and steps follow each other.
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

# Per value of the input, which is as large as the output: bytes, vector
# multiply-adds, and 1 where the step is a product with the O x C*K weight.
# Exponentials go to units of their own, at a quarter of the rate of these.
FEATURES = (SIZE + PLANES, 81 + 9 + 4 * TAPS, 0)
PRODUCT = (PLANES + SIZE, 0, 1)
MOMENTS = (SIZE, 45 + 9, 0)
STEPS = {
    # The kernels as they are: C*K values go through memory.
    'inference': [FEATURES, PRODUCT],
    'training': [
        MOMENTS,
        FEATURES,
        PRODUCT,
        FEATURES,  # again, for the gradient of the weight
        PRODUCT,  # gradient of the weight
        PRODUCT,  # gradient of the weighted features
        (SIZE + 2 * PLANES + SIZE, 81 + 9 + 8 * TAPS, 0),
        (SIZE + PLANES, 81 + 9, 0),  # gradient of v and b
        (PLANES + SIZE + SIZE, 81 + 9, 0),  # gradient of the input
        (2 * SIZE, 81, 0),  # its part through the statistics
        (3 * SIZE, 1, 0),  # the sum of the two parts
    ],
}
# What cannot be avoided: each tensor of the size of the input once a pass,
# and two passes each way where statistics of the whole batch are needed.
LEAST = {
    'inference': (2 * SIZE, 81 + 9 + 4 * TAPS, 1),
    'training': (9 * SIZE, 54 + 2 * 126 + 3 * 81, 3),
}
CONVOLUTION = {'inference': (2 * SIZE, 0, 1), 'training': (6 * SIZE, 0, 3)}


def seconds(step: tuple, channels: int, pixels: int, card: str) -> float:
    """The least time of one step."""
    bandwidth, vector, matrix = CARDS[card]
    traffic, adds, products = step
    values = BATCH * channels * pixels**2
    weight = products * channels * channels * PLANES
    return max(
        (values * traffic + weight) / bandwidth,
        values * 2 * adds / vector,
        values * 2 * products * TAPS * channels / matrix,
    )


def floors() -> list[str]:
    """Markdown: microseconds per layer, pass and card."""
    rows = []
    for channels, pixels in SHAPES:
        for name in ('inference', 'training'):
            values = BATCH * channels * pixels**2
            traffic, adds, products = LEAST[name]
            row = [f'{channels} @ {pixels}x{pixels}', name]
            row.append(f'{values * traffic / 1e6:.1f}')
            built = sum(step[0] for step in STEPS[name])
            row.append(f'{values * built / 1e6:.0f}')
            row.append(f'{values * 2 * adds / 1e9:.1f}')
            row.append(f'{values * 2 * products * TAPS * channels / 1e9:.1f}')
            for card in CARDS:
                least, built, plain = (
                    sum(seconds(s, channels, pixels, card) for s in steps)
                    for steps in (
                        [LEAST[name]],
                        STEPS[name],
                        [CONVOLUTION[name]],
                    )
                )
                row.append(
                    ' / '.join(f'{t * 1e6:.0f}' for t in (plain, least))
                )
                row[-1] += f' / {built * 1e6:.0f}'
            rows.append(row)
    head = ['layer', 'pass', 'MB, least', 'MB, as built']
    head += ['vector GFLOP', 'matrix GFLOP']
    return table(head + [f'{card}, µs' for card in CARDS], rows)


if __name__ == '__main__':
    print('\n'.join(floors()))
