"""Time the operators against nn.Conv2d and against their literal form.

    python benchmarks/run.py --out benchmarks/results/NAME

writes NAME.json (every figure, machine, versions, commit), NAME.md (tables)
and NAME.png. All forms of one case are timed in turn, several times over, so
that a machine that slows down slows them alike; medians are compared. Layers
are timed in several processes: where its memory lies is luck of a process, and
moves a single ratio by a quarter.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import report
import torch
from timing import (
    LAYERS,
    OPERATORS,
    PASSES,
    ROOT,
    arguments,
    compare,
    in_form,
    machine,
    means,
    on_cpu,
    say,
    training_step,
)
from torch import Tensor, nn

from mmrfa.layers import RFAConv
from mmrfa.ops.primitives import cpu

# Every 3x3 convolution in ResNet-18 and in the bottlenecks of ResNet-50 at
# 224x224: channels in, channels out, pixels of the input, stride.
SHAPES = [(channels, channels, size, 1) for channels, size in LAYERS]
STRIDED = [
    (64, 128, 56, 2),
    (128, 256, 28, 2),
    (256, 512, 14, 2),
    (128, 128, 56, 2),
    (256, 256, 28, 2),
    (512, 512, 14, 2),
]
FORMS = ('reference', 'fused', 'compiled')
DEEPLAB = 'deeplabv3plus/deeplabv3plus_r18{}-d16_1xb8-4k_camvid-256x256'
NETWORKS = {
    'ResNet-18': dict(depth=18, batch=8, size=224),
    'ResNet-50': dict(depth=50, batch=2, size=224),
    'DeepLabV3+ R18': dict(config=DEEPLAB, batch=2, size=256),
    'DeepLabV3+ R18 with AWConv': dict(
        config=DEEPLAB, operator='-aw', batch=8, size=160
    ),
}
NOTE = (
    'Ratios are to `nn.Conv2d` or the plain network, timed in turn in the '
    'same process; medians, and of layers the medians of the ratios of '
    'several processes. `reference` is the literal form. Memory is the peak '
    'of a training step with `MALLOC_MMAP_THRESHOLD_` at 1 MiB, so that '
    'blocks that are free again do not count.'
)


def layer_cases(rounds: int, batches: list[int], threads: list[int]) -> list:
    """RFAConv at every shape and batch; at batch 4 everything."""
    work = []
    for count in threads:
        for batch in batches:
            more = STRIDED if batch == 4 else []
            work += [(count, batch, s, RFAConv) for s in SHAPES + more]
            if batch == 4:
                work += [
                    (count, 4, s, o) for s in SHAPES for o in OPERATORS[1:]
                ]
    cases = []
    for count, batch, (inputs, outputs, size, stride), operator in work:
        x = torch.randn(batch, inputs, size, size).relu()
        args = inputs, outputs, 3, stride, 1
        layer = operator(*args)
        modules = {'plain': nn.Conv2d(*args)} | dict.fromkeys(FORMS, layer)
        case = dict(
            operator=operator.__name__,
            channels=f'{inputs} to {outputs}',
            size=size,
            stride=stride,
            batch=batch,
            threads=count,
        )
        case |= compare(modules, [x], rounds, on_cpu(count))
        cases.append(say(case))
    return cases


def in_processes(count: int, arguments: list[str]) -> list:
    """Layer cases, medians over so many processes.

    Of the ratios to plain that each of them finds: times of different
    processes are not compared.
    """
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'cases.json')
        for _ in range(count):
            subprocess.run(
                [sys.executable, __file__, *arguments, '--layers-to', file],
                check=True,
            )
            runs.append(json.loads(file.read_text()))
    merged = []
    for cases in zip(*runs, strict=True):
        case = dict(cases[0])
        for name in PASSES:
            plain = median(c[name]['plain'] for c in cases)
            case[name] = {
                form: plain
                * median(c[name][form] / c[name]['plain'] for c in cases)
                for form in case[name]
            }
        merged.append(case)
    return merged


def network(
    form: str,
    batch: int,
    size: int,
    config: str | None = None,
    operator: str = '-rfa',
    **kwargs,
) -> tuple[nn.Module, Tensor]:
    """A network and its input; with RFAConv, if no config names another."""
    x = torch.randn(batch, 3, size, size)
    if config is None:
        from mmrfa.models import RFAResNet

        attention = None if form == 'plain' else dict(type='RFAConv')
        return RFAResNet(attention_conv=attention, **kwargs), x
    from mmengine.config import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    name = config.format('' if form == 'plain' else operator)
    model = Config.fromfile(ROOT / 'configs' / f'{name}.py').model
    model.data_preprocessor = None  # x is what it would give
    return MODELS.build(model), x


def network_cases(rounds: int, threads: list[int]) -> list:
    cases = []
    for name, settings in NETWORKS.items():
        plain, x = network('plain', **settings)
        net, _ = network('reference', **settings)
        # AWConv has no compiled form.
        forms = FORMS[:2] if 'operator' in settings else FORMS
        modules = {'plain': plain} | dict.fromkeys(forms, net)
        memory = {form: peak(name, form) for form in modules}
        for count in threads:
            case = dict(network=name, threads=count, **settings)
            case |= compare(modules, [x], rounds, on_cpu(count))
            cases.append(say(case | dict(peak_mb=memory)))
    return cases


def peak(name: str, form: str) -> float:
    """Peak memory of a training step in a process of its own, MiB.

    What the process takes before the network exists is subtracted. The C
    library returns large blocks at once: its default depends on luck, and
    differs from run to run by a quarter.
    """
    return float(
        subprocess.check_output(
            [sys.executable, __file__, '--peak', name, form],
            env={**os.environ, 'MALLOC_MMAP_THRESHOLD_': str(1 << 20)},
            text=True,
        ).split()[-1]
    )


def print_peak(name: str, form: str) -> None:
    import mmrfa.models  # noqa: F401

    def now() -> int:
        # Not ru_maxrss, which a process takes over from its parent.
        status = Path('/proc/self/status').read_text()
        return int(status.split('VmHWM:')[1].split()[0])

    before = now()
    net, x = network(form, **NETWORKS[name])
    for _ in range(2):
        in_form(form, training_step, net.train(), x)
    print((now() - before) / 1024)


def shown(layers: list, batch: int, threads: int) -> list:
    """RFAConv over SHAPES."""
    wanted = ('RFAConv', batch, threads, 1)
    keys = 'operator', 'batch', 'threads', 'stride'
    return [c for c in layers if tuple(c[key] for key in keys) == wanted]


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 4, 16])
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--processes', type=int, default=3)
    parser.add_argument('--no-networks', action='store_true')
    parser.add_argument('--peak', nargs=2, help=argparse.SUPPRESS)
    parser.add_argument('--layers-to', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print_peak(*args.peak)
        return
    if cpu.unavailable():
        sys.exit(f'error: backend compiled: {cpu.unavailable()}')
    torch.manual_seed(0)
    if args.layers_to:
        layers = layer_cases(args.rounds, args.batches, args.threads)
        args.layers_to.write_text(json.dumps(layers))
        return
    layers = in_processes(args.processes, sys.argv[1:])
    networks = []
    if not args.no_networks:
        networks = network_cases(max(2, args.rounds - 1), args.threads)
    batch = 4 if 4 in args.batches else max(args.batches)
    results = dict(
        machine=machine(instructions=cpu.instruction_set(), dtype='float32'),
        summary={
            f'{name}, {count} threads': means(
                shown(layers, batch, count), name
            )
            for count in args.threads
            for name in PASSES
        },
        layers=layers,
        networks=networks,
    )
    if args.out:
        lines = report.tables(results, 'Benchmark on a CPU', NOTE)
        report.write(results, args.out, lines)
        cases = shown(layers, batch, max(args.threads))
        report.plot(cases, args.out.with_suffix('.png'))
    print(json.dumps(results['summary'], indent=1))


if __name__ == '__main__':
    main()
