"""Time AWConv sample by sample and map by map: when is which less work?

    python benchmarks/aw_by_maps.py --out benchmarks/results/aw_by_maps

writes NAME.json and NAME.md. A case is a training step of a layer on a CPU,
nn.Conv2d and both ways in turn; medians are compared.
"""

from functools import partial
from unittest import mock

import report
import torch
from timing import arguments, in_turn, machine, on_cpu, training_step
from torch import Tensor, nn

from mmrfa.layers import AWConv
from mmrfa.ops.aw import by_maps

BATCHES = 1, 4, 8, 32
# Channels in and out, pixels of the input, stride, r.
LAYERS = [
    (512, 512, 1, 1, 16),
    (512, 512, 2, 1, 16),
    (256, 512, 4, 2, 16),
    (64, 64, 2, 1, 16),
    (512, 512, 3, 1, 16),
    (256, 256, 4, 1, 16),
    (512, 512, 4, 1, 32),
    (512, 512, 7, 1, 64),
    (128, 128, 8, 1, 16),
]
WAYS = {'by samples': False, 'by maps': True}


def step(layer: nn.Module, way: bool, x: Tensor) -> None:
    """A training step of AWConv one way or the other."""
    with mock.patch.object(by_maps, 'is_less_work', lambda *_: way):
        training_step(layer, x)


def measure(rounds: int, threads: int) -> list[dict]:
    """Every layer at every batch.

    Returns:
        list[dict]: cases, with ``seconds`` by way and what is ``taken``.
    """
    cases = []
    for inputs, outputs, size, stride, reduction in LAYERS:
        for batch in BATCHES:
            args = inputs, outputs, 3, stride, 1
            layer = AWConv(*args, reduction=reduction)
            # A norm of one sample has nothing to average.
            layer.eval()
            calls = {'plain': partial(training_step, nn.Conv2d(*args))}
            calls |= {k: partial(step, layer, way) for k, way in WAYS.items()}
            x = torch.randn(batch, inputs, size, size, requires_grad=True)
            pixels = layer.window.out_size(x)
            maps = torch.empty(batch, outputs, inputs // reduction, 3, 3)
            less = by_maps.is_less_work(x, maps, pixels[0] * pixels[1], 1)
            case = dict(
                channels=f'{inputs} to {outputs}',
                pixels=pixels[0] * pixels[1],
                r=reduction,
                batch=batch,
                seconds=in_turn(calls, rounds, on_cpu(threads), [x]),
                taken=next(k for k, way in WAYS.items() if way == less),
            )
            print(*case.values(), flush=True)
            cases.append(case)
    return cases


def page(results: dict) -> list[str]:
    """Markdown of all figures."""
    setup = ', '.join(f'{k} {v}' for k, v in results['machine'].items())
    rows = []
    for case in results['cases']:
        times = [f'{t * 1e3:.1f}' for t in case['seconds'].values()]
        keys = 'channels', 'pixels', 'r', 'batch'
        rows.append([*(case[k] for k in keys), *times, case['taken']])
    head = 'channels', 'output pixels', 'r', 'batch', 'plain, ms'
    head = *head, *(f'{way}, ms' for way in WAYS), 'taken'
    return [
        '# AWConv by samples and by maps',
        '',
        f'A training step of a 3x3 layer: {setup}.',
        '',
        *report.table(head, rows),
    ]


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    results = dict(
        machine=machine(threads=args.threads, rounds=args.rounds),
        cases=measure(args.rounds, args.threads),
    )
    if args.out:
        report.write(results, args.out, page(results))


if __name__ == '__main__':
    main()
