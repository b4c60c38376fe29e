"""How far the compiled CPU kernels are from what they must at least spend.

    python benchmarks/kernels.py --out benchmarks/results/NAME

For every kernel and shape: the multiply-adds and bytes that cannot be avoided
(counted below, per output position and input channel), the time that this
machine needs for them at the rates it reaches in a large matrix product and in
a copy, measured in the same run, and the time the kernel takes.
"""

import sys

import torch
from report import table, write
from timing import LAYERS, arguments, in_turn, machine, on_cpu
from torch import Tensor

from mmrfa.ops.primitives import cpu

KERNEL = (3, 3)
GEOMETRY = ((1, 1), (1, 1), (1, 1))  # stride, padding, dilation
TAPS, LAGS = 9, 25
EXP = 10  # multiply-adds of one exponential
BATCH = 4


def features() -> int:
    """Multiply-adds of K features; with attention see :func:`attention`."""
    return TAPS * TAPS


def attention() -> int:
    """The mean, a division and two products for each tap; exponentials.

    That of the first tap is 1, once its score is taken off all of them.
    """
    return TAPS * (1 + 3) + (TAPS - 1) * EXP


# name: multiply-adds per channel and position for O outputs,
# floats read and written per channel and position
FLOORS = {
    # the sum, and the products with half of the 25 lags of two taps; their
    # gradient has all of the lags
    'rf_moments': lambda o: (1 + (LAGS + 1) // 2, 1),
    'rf_moments_backward': lambda o: (1 + LAGS, 2),
    # all that they give is smaller than x
    'rf_channel_pool': lambda o: (features() + 2 * TAPS, 1),
    'rf_line_pool': lambda o: (features() + 2 * TAPS, 1),
    'rf_conv': lambda o: (features() + attention() + TAPS * o, 2),
    # features and attention once more, the gradients of both of its factors,
    # of the taps and of the feature weights, and two matrix products
    'rf_conv_backward': lambda o: (
        3 * features() + 2 * attention() + 2 * TAPS * o,
        3,
    ),
}


def calls(x: Tensor, outputs: int) -> dict:
    """The kernels on one input."""
    channels = x.size(1)
    ops = torch.ops.mmrfa
    gain = torch.randn(channels, TAPS)
    v = torch.randn(channels, TAPS, TAPS) / 3
    b = torch.randn(channels, TAPS)
    weight = torch.randn(outputs, channels, *KERNEL)
    grad = torch.randn(x.size(0), outputs, *x.shape[2:])
    mean, covariance = ops.rf_moments(x, KERNEL, *GEOMETRY)
    rest = (*[None] * 4, *GEOMETRY, 1, False)  # no gates
    return {
        'rf_moments': lambda x: ops.rf_moments(x, KERNEL, *GEOMETRY),
        'rf_moments_backward': lambda x: ops.rf_moments_backward(
            mean, covariance, x, mean, KERNEL, *GEOMETRY
        ),
        'rf_channel_pool': lambda x: ops.rf_channel_pool(
            x, v, b, KERNEL, *GEOMETRY
        ),
        'rf_line_pool': lambda x: ops.rf_line_pool(x, v, b, KERNEL, *GEOMETRY),
        'rf_conv': lambda x: ops.rf_conv(x, gain, v, b, weight, None, *rest),
        'rf_conv_backward': lambda x: ops.rf_conv_backward(
            grad, x, gain, v, b, weight, *rest
        ),
    }


def measure(rounds: int, threads: int) -> list[dict]:
    """One row for every kernel and shape."""
    side = torch.randn(1536, 1536)
    source, target = torch.randn(1 << 24), torch.empty(1 << 24)
    rows = []
    for channels, size in LAYERS:
        x = torch.randn(BATCH, channels, size, size).relu()
        todo = calls(x, channels) | dict(
            product=lambda x: side @ side,
            copy=lambda x: target.copy_(source),
        )
        found = in_turn(todo, rounds, on_cpu(threads), [x])
        rate = side.size(0) ** 3 / found.pop('product')
        bandwidth = 2 * source.nbytes / found.pop('copy')
        for name, took in found.items():
            operations, floats = FLOORS[name](channels)
            operations *= x.numel()
            size_in_bytes = 4 * floats * x.numel()
            floor = max(operations / rate, size_in_bytes / bandwidth)
            rows.append(
                dict(
                    kernel=name,
                    channels=channels,
                    pixels=size,
                    threads=threads,
                    operations=operations,
                    bytes=size_in_bytes,
                    rate=rate,
                    bandwidth=bandwidth,
                    floor=floor,
                    seconds=took,
                )
            )
    return rows


def report(results: dict) -> list[str]:
    """Markdown lines."""
    info = results['machine']
    lines = [
        f'# CPU kernels and their floor, {info["date"]}',
        '',
        f'{info["cpu"]}, {info["instructions"]}; torch {info["torch"]}, mmrfa '
        f'at `{info["commit"][:12]}`; float32, 3x3, stride 1, batch {BATCH}, '
        f'{results["threads"]} threads. The floor is the larger of the '
        'multiply-adds at the rate of a large matrix product and the bytes at '
        'the bandwidth of a copy, both measured in the same run; an '
        f'exponential counts as {EXP} multiply-adds.',
        '',
    ]
    head = ['kernel', 'channels', 'multiply-adds, M', 'MB', 'floor, ms']
    rows = [
        [
            f'`{row["kernel"]}`',
            f'{row["channels"]} at {row["pixels"]}x{row["pixels"]}',
            f'{row["operations"] / 1e6:.0f}',
            f'{row["bytes"] / 1e6:.1f}',
            f'{row["floor"] * 1e3:.2f}',
            f'{row["seconds"] * 1e3:.2f}',
            f'{row["seconds"] / row["floor"]:.1f}',
        ]
        for row in results['rows']
    ]
    return lines + table([*head, 'took, ms', 'times the floor'], rows)


def main() -> None:
    parser = arguments(__doc__, rounds=21)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    if cpu.unavailable():
        sys.exit(f'error: backend compiled: {cpu.unavailable()}')
    torch.manual_seed(0)
    results = dict(
        machine=machine(instructions=cpu.instruction_set()),
        threads=args.threads,
        rows=measure(args.rounds, args.threads),
    )
    lines = report(results)
    if args.out:
        write(results, args.out, lines)
    print(*lines, sep='\n')


if __name__ == '__main__':
    main()
