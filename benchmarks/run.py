"""Time the operators against nn.Conv2d and against their literal form.

    python benchmarks/run.py --out benchmarks/results/NAME

writes NAME.json (every figure, machine, versions, commit), NAME.md (tables)
and NAME.png. All forms of one case are timed in turn, several times over, so
that a machine that slows down slows them alike; medians are compared.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from statistics import geometric_mean, median

import torch
from report import write_report
from torch import Tensor, nn
from torch.utils.benchmark import Timer

import mmrfa
from mmrfa.layers import RFAConv, RFCAConv, RFCBAMConv
from mmrfa.ops import native, use_backend

ROOT = Path(__file__).parents[1]
# Every 3x3 convolution in ResNet-18 and in the bottlenecks of ResNet-50 at
# 224x224: channels in, channels out, pixels of the input, stride.
SHAPES = [
    (64, 64, 56, 1),
    (128, 128, 28, 1),
    (256, 256, 14, 1),
    (512, 512, 7, 1),
]
STRIDED = [
    (64, 128, 56, 2),
    (128, 256, 28, 2),
    (256, 512, 14, 2),
    (128, 128, 56, 2),
    (256, 256, 28, 2),
    (512, 512, 14, 2),
]
OPERATORS = (RFAConv, RFCBAMConv, RFCAConv)
FORMS = ('reference', 'fused', 'cpu')
NETWORKS = {
    'ResNet-18': dict(depth=18, batch=8, size=224),
    'ResNet-50': dict(depth=50, batch=2, size=224),
    'DeepLabV3+ R18': dict(
        config='deeplabv3plus/deeplabv3plus_r18{}-d16_1xb8-4k_camvid-256x256',
        batch=2,
        size=256,
    ),
}


def training_step(module: nn.Module, x: Tensor) -> None:
    """Forward and backward to every parameter and to the input."""
    module.zero_grad()
    x.grad = None
    out = module(x)
    out = out[-1] if isinstance(out, tuple) else out
    out.backward(torch.ones_like(out))


@torch.no_grad()
def inference(module: nn.Module, x: Tensor) -> None:
    module(x)


def in_backend(form: str, run, module: nn.Module, x: Tensor) -> None:
    if form == 'plain':
        run(module, x)
        return
    with use_backend(form):
        run(module, x)


def compare(
    modules: dict[str, nn.Module], x: Tensor, threads: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Median seconds of every form, for inference and a training step.

    Args:
        modules (dict): module by name of the form; 'plain' is the baseline.
        x (Tensor): input.
        threads (int): torch's number of threads.
        rounds (int): how often every form is timed.

    Returns:
        dict: ``{'inference': {form: seconds}, 'training': {...}}``.
    """
    found = {}
    for name, run in (('inference', inference), ('training', training_step)):
        training = name == 'training'
        x = x.detach().requires_grad_(training)
        times = {form: [] for form in modules}
        for turn in range(rounds + 1):
            for form, module in modules.items():
                timer = Timer(
                    'call(form, run, module, x)',
                    globals=dict(
                        call=in_backend,
                        form=form,
                        run=run,
                        module=module.train(training),
                        x=x,
                    ),
                    num_threads=threads,
                )
                seconds = timer.timeit(1).median
                if turn:  # the first turn warms up
                    times[form].append(seconds)
        found[name] = {form: median(t) for form, t in times.items()}
    return found


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
        cases.append(case | compare(modules, x, count, rounds))
        say(cases[-1])
    return cases


def network(
    form: str, batch: int, size: int, config: str | None = None, **kwargs
) -> tuple[nn.Module, Tensor]:
    """A network and its input."""
    x = torch.randn(batch, 3, size, size)
    if config is None:
        from mmrfa.models import RFAResNet

        operator = None if form == 'plain' else dict(type='RFAConv')
        return RFAResNet(attention_conv=operator, **kwargs), x
    from mmengine.config import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    name = config.format('' if form == 'plain' else '-rfa')
    model = Config.fromfile(ROOT / 'configs' / f'{name}.py').model
    model.data_preprocessor = None  # x is what it would give
    return MODELS.build(model), x


def network_cases(rounds: int, threads: list[int]) -> list:
    cases = []
    for name, settings in NETWORKS.items():
        plain, x = network('plain', **settings)
        net, _ = network('cpu', **settings)
        modules = {'plain': plain} | dict.fromkeys(FORMS, net)
        memory = {form: peak(name, form) for form in modules}
        for count in threads:
            case = dict(network=name, threads=count, **settings)
            case |= compare(modules, x, count, rounds)
            cases.append(case | dict(peak_mb=memory))
            say(cases[-1])
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
        in_backend(form, training_step, net.train(), x)
    print((now() - before) / 1024)


def say(case: dict) -> None:
    """Progress: one line per case, ratios to the baseline."""
    what = ' '.join(
        str(case[key])
        for key in 'operator network channels size stride batch'.split()
        if key in case
    )
    for name in ('inference', 'training'):
        times = case[name]
        what += f' | {name} {times["plain"] * 1e3:.2f} ms'
        for form in times:
            if form != 'plain':
                what += f', {form} x{times[form] / times["plain"]:.2f}'
    print(f'{case["threads"]} threads: {what}', flush=True)


def machine() -> dict:
    """What the figures depend on."""
    cpu = platform.processor()
    info = Path('/proc/cpuinfo')
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next(x.split(':')[1] for x in lines if 'model name' in x)
    git = ['git', '-C', str(Path(__file__).parent), 'rev-parse', 'HEAD']
    commit = subprocess.run(git, capture_output=True, text=True).stdout
    return dict(
        date=str(date.today()),
        cpu=cpu.strip(),
        instructions=torch.ops.mmrfa.instruction_set(),
        torch=torch.__version__,
        mmrfa=mmrfa.__version__,
        commit=commit.strip(),
        dtype='float32',
    )


def summary(layers: list) -> dict:
    """Geometric means over SHAPES of RFAConv at batch 4."""
    found = {}
    for count in sorted({case['threads'] for case in layers}):
        for name in ('inference', 'training'):
            chosen = [
                case[name]
                for case in layers
                if (case['operator'], case['batch'], case['stride'])
                == ('RFAConv', 4, 1)
                and case['threads'] == count
            ]
            found[f'{name}, {count} threads'] = {
                form: geometric_mean(c[form] / c['plain'] for c in chosen)
                for form in FORMS
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, help='results, without ending')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 4, 16])
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--no-networks', action='store_true')
    parser.add_argument('--peak', nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print_peak(*args.peak)
        return
    if native.unavailable():
        sys.exit(f'error: backend cpu: {native.unavailable()}')
    torch.manual_seed(0)
    layers = layer_cases(args.rounds, args.batches, args.threads)
    networks = []
    if not args.no_networks:
        networks = network_cases(max(2, args.rounds // 2), args.threads)
    results = dict(
        machine=machine(),
        summary=summary(layers) if 4 in args.batches else {},
        layers=layers,
        networks=networks,
    )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix('.json').write_text(
            json.dumps(results, indent=1) + '\n'
        )
        write_report(results, args.out)
    print(json.dumps(results['summary'], indent=1))


if __name__ == '__main__':
    main()
