"""How far the compiled CPU kernels are from what they must at least spend.

    python benchmarks/kernels.py --out benchmarks/results/NAME

For every kernel and shape: the multiply-adds and bytes that cannot be avoided
(counted below, per output position and input channel), the time that this
machine needs for them at the rates it reaches in a large matrix product and in
a copy, measured in the same run, and the time the kernel takes.
"""

import argparse
import json
from pathlib import Path
from statistics import median

import torch
from report import table
from run import SHAPES, machine
from torch import Tensor
from torch.utils.benchmark import Timer

from mmrfa.ops import native

KERNEL = (3, 3)
GEOMETRY = ((1, 1), (1, 1), (1, 1))  # stride, padding, dilation
TAPS = 9
EXP = 10  # multiply-adds of one exponential
BATCH = 4


def features() -> int:
    """Multiply-adds of K features; with attention see :func:`attention`."""
    return TAPS * TAPS


def attention() -> int:
    """The mean, an exponential, a division and two products for each tap."""
    return TAPS * (1 + EXP + 3)


# name: multiply-adds per channel and position for O outputs,
# floats read and written per channel and position
FLOORS = {
    'rf_moments': lambda o: (TAPS * (TAPS + 1) // 2 + TAPS, 1),
    'rf_moments_backward': lambda o: (TAPS * TAPS + TAPS, 2),
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


def seconds(rounds: int, threads: int, **calls) -> dict[str, float]:
    """Median time of each call, all of them in turn."""
    times = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            timer = Timer('f()', globals=dict(f=call), num_threads=threads)
            if turn:
                times[name].append(timer.timeit(1).median)
            else:
                timer.timeit(1)
    return {name: median(values) for name, values in times.items()}


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
    rest = (None, None, *GEOMETRY, 1, False)
    return {
        'rf_moments': lambda: ops.rf_moments(x, KERNEL, *GEOMETRY),
        'rf_moments_backward': lambda: ops.rf_moments_backward(
            mean, covariance, x, mean, KERNEL, *GEOMETRY
        ),
        'rf_channel_pool': lambda: ops.rf_channel_pool(
            x, v, b, KERNEL, *GEOMETRY
        ),
        'rf_line_pool': lambda: ops.rf_line_pool(x, v, b, KERNEL, *GEOMETRY),
        'rf_conv': lambda: ops.rf_conv(x, gain, v, b, weight, None, *rest),
        'rf_conv_backward': lambda: ops.rf_conv_backward(
            grad, x, gain, v, b, weight, *rest
        ),
    }


def measure(rounds: int, threads: int) -> list[dict]:
    """One row for every kernel and shape."""
    side = torch.randn(1536, 1536)
    source, target = torch.randn(1 << 24), torch.empty(1 << 24)
    rows = []
    for channels, outputs, size, _ in SHAPES:
        x = torch.randn(BATCH, channels, size, size).relu()
        found = seconds(
            rounds,
            threads,
            product=lambda: side @ side,
            copy=lambda: target.copy_(source),
            **calls(x, outputs),
        )
        rate = side.size(0) ** 3 / found.pop('product')
        bandwidth = 2 * source.nbytes / found.pop('copy')
        for name, took in found.items():
            operations, floats = FLOORS[name](outputs)
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--out', type=Path, help='results, without ending')
    parser.add_argument('--rounds', type=int, default=21)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    if native.unavailable():
        parser.exit(1, f'error: backend cpu: {native.unavailable()}\n')
    torch.manual_seed(0)
    results = dict(
        machine=machine(),
        threads=args.threads,
        rows=measure(args.rounds, args.threads),
    )
    text = '\n'.join(report(results)) + '\n'
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix('.json').write_text(
            json.dumps(results, indent=1) + '\n'
        )
        args.out.with_suffix('.md').write_text(text)
    print(text)


if __name__ == '__main__':
    main()
