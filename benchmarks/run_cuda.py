"""Time the operators on a GPU against cuDNN's convolution.

    python benchmarks/run_cuda.py --out benchmarks/results/cuda_NAME

needs torch, triton and this package, and for the whole network mmseg. Writes
NAME.json (every figure, GPU, driver, versions, commit), NAME.md (tables) and
NAME.png, after every case. Batch 32, bfloat16, channels last; CUDA events, all
forms in turn on several inputs, medians. A form is warmed up first, which
compiles and tunes the kernels.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median

import torch
from report import table
from run import OPERATORS, in_backend, inference, training_step
from torch import Tensor, nn

import mmrfa
from mmrfa.ops.primitives import gpu
from mmrfa.ops.primitives.gpu import conv, launch

FORMS = ('reference', 'fused', 'compiled')
# Channels, pixels of the input, stride: the 3x3 layers of ResNet-18 without
# change of size, which are also those of ResNet-50, and its strided ones.
SHAPES = [(64, 56, 1), (128, 28, 1), (256, 14, 1), (512, 7, 1)]
SHAPES += [(128, 56, 2), (256, 28, 2), (512, 14, 2)]
TINY = [(4, 3, 2)]
CONFIGS = Path(__file__).parents[1] / 'configs/deeplabv3plus'
CONFIG = 'deeplabv3plus_r50{}-d8_4xb4-20k_voc12aug-512x512.py'
PASSES = {'inference': inference, 'training': training_step}


def seconds(call: Callable[[], None], device: str, ahead: bool) -> float:
    """Time one call on the device.

    Args:
        call (Callable): what to time.
        device (str): 'cuda' or 'cpu'.
        ahead (bool): whether the host is given a start, so that the time of
            starting kernels does not count, which is longer than a layer's.
    """
    if device == 'cpu':
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if ahead:
        torch.cuda._sleep(launch.BUSY)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def mebibytes(call: Callable[[], object], device: str) -> dict | None:
    """Peak of a call and what its result keeps, above what was there."""
    if device == 'cpu':
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = call()
    after = torch.cuda.memory_allocated() - before
    peak = torch.cuda.max_memory_allocated() - before
    del kept
    return dict(peak=peak / 2**20, kept=after / 2**20)


def compare(
    modules: dict[str, nn.Module],
    inputs: list[Tensor],
    rounds: int,
) -> dict[str, dict]:
    """Median seconds and memory of every form, for both passes.

    Args:
        modules (dict): module by name of the form; 'plain' is the baseline.
        inputs (list[Tensor]): taken in turn.
        rounds (int): how often every form is timed.

    Returns:
        dict: ``{'inference': {form: seconds}, 'training': ..., 'peak_mb':
        {form: MiB of a training step}, 'kept_mb': {form: MiB between forward
        and backward, input and output included}}``, the last two on a GPU.
    """
    found = {'peak_mb': {}, 'kept_mb': {}}
    device = inputs[0].device.type
    for name, run in PASSES.items():
        training = name == 'training'
        xs = [x.detach().requires_grad_(training) for x in inputs]
        times = {form: [] for form in modules}
        for turn in range(rounds + 1):
            x = xs[turn % len(xs)]
            for form, module in modules.items():
                module.train(training)

                def call(run=run, form=form, module=module, x=x):
                    in_backend(form, run, module, x)

                spent = seconds(call, device, ahead=True)
                if turn:  # the first turn warms up
                    times[form].append(spent)
        found[name] = {form: median(t) for form, t in times.items()}
    for form, module in modules.items():
        x = inputs[0].detach().requires_grad_()

        def step(form=form, module=module, x=x):
            in_backend(form, training_step, module, x)

        def forward(form=form, module=module, x=x):
            kept = []
            in_backend(form, lambda m, x: kept.append(m(x)), module, x)
            return kept

        if device != 'cpu':
            module.zero_grad()
            found['peak_mb'][form] = mebibytes(step, device)['peak']
            found['kept_mb'][form] = (
                mebibytes(forward, device)['kept'] + x.nbytes / 2**20
            )
    return found


def layer_case(
    device: str, operator: type, shape: tuple, batch: int, rounds: int
) -> dict:
    """One operator in one of SHAPES."""
    channels, size, stride = shape
    kind = dict(device=device, dtype=torch.bfloat16)
    inputs = [
        torch.randn(batch, channels, size, size, **kind)
        .relu()
        .contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    ]
    plain, ours = (
        layer(channels, channels, 3, stride, 1, **kind).to(
            memory_format=torch.channels_last
        )
        for layer in (nn.Conv2d, operator)
    )
    modules = {'plain': plain} | dict.fromkeys(FORMS, ours)
    case = dict(
        operator=operator.__name__,
        channels=channels,
        size=size,
        stride=stride,
        batch=batch,
        **compare(modules, inputs, rounds),
    )
    say(case)
    return case


def segmentor(form: str, device: str) -> nn.Module:
    """DeepLabV3+ with a ResNet-50, plain or with RFAConv."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import mmrfa.models  # noqa: F401

    file = CONFIG.format('' if form == 'plain' else '-rfa')
    config = Config.fromfile(CONFIGS / file)
    text = json.dumps(config.model.to_dict())
    model = json.loads(text.replace('"SyncBN"', '"BN"'))  # one process
    init_default_scope(config.default_scope)
    model['backbone']['init_cfg'] = None
    return MODELS.build(model).to(device, memory_format=torch.channels_last)


def network_case(
    device: str, forms: tuple, rounds: int, size: int, batch: int
) -> dict:
    """A training step of the segmentor, plain and in forms, with autocast."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    image = torch.randn(batch, 3, size, size, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    samples = []
    for _ in range(batch):
        labels = torch.randint(21, (1, size, size), device=device)
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels)))

    def step(net: nn.Module, x: Tensor) -> None:
        net.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            losses = net.loss(x, samples)
        sum(v for k, v in losses.items() if 'loss' in k).backward()

    found = {'training': {}, 'peak_mb': {}}
    for form in ('plain', *forms):
        torch.manual_seed(0)
        net = segmentor(form, device).train()

        def call(form=form, net=net):
            in_backend(form, step, net, image)

        call()  # warms up
        times = [seconds(call, device, ahead=False) for _ in range(rounds)]
        found['training'][form] = median(times)
        memory = mebibytes(call, device)
        if memory is not None:
            # with the network, which was there before
            own = torch.cuda.memory_allocated() / 2**20
            found['peak_mb'][form] = memory['peak'] + own
        del net, call
    name = 'DeepLabV3+ ResNet-50'
    return dict(network=name, batch=batch, size=size, **found)


def say(case: dict) -> None:
    """Progress: one line per case, ratios to the baseline."""
    line = f'{case["operator"]} {case["channels"]} @ {case["size"]}'
    for name in PASSES:
        times = case[name]
        line += f' | {name} {times["plain"] * 1e3:.3f} ms'
        for form in FORMS:
            line += f', {form} x{times[form] / times["plain"]:.2f}'
    print(line, flush=True)


def machine(device: str) -> dict:
    """What the figures depend on."""
    import triton

    git = ['git', '-C', str(Path(__file__).parent), 'rev-parse', 'HEAD']
    commit = subprocess.run(git, capture_output=True, text=True).stdout
    found = dict(
        date=str(date.today()),
        torch=torch.__version__,
        triton=triton.__version__,
        mmrfa=mmrfa.__version__,
        commit=commit.strip(),
        dtype='bfloat16',
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        gpu='none',
    )
    if device == 'cuda':
        query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv']
        driver = subprocess.run(query, capture_output=True, text=True).stdout
        found |= dict(
            gpu=torch.cuda.get_device_name(),
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
            driver=driver.split()[-1] if driver else 'unknown',
        )
    return found


def summary(layers: list) -> dict:
    """Geometric means of RFAConv over the shapes."""
    chosen = [case for case in layers if case['operator'] == 'RFAConv']
    return {
        name: {
            form: geometric_mean(
                case[name][form] / case[name]['plain'] for case in chosen
            )
            for form in FORMS
        }
        for name in (*PASSES, 'peak_mb', 'kept_mb')
        if all(case[name] for case in chosen)
    }


def tables(results: dict) -> list[str]:
    """Markdown lines."""
    setup = results['machine']
    count = sum(c['operator'] == 'RFAConv' for c in results['layers'])
    lines = [
        f'# Benchmark on a GPU of {setup["date"]}',
        '',
        ', '.join(f'{k} {v}' for k, v in setup.items() if k != 'date')
        + '. Ratios are to `nn.Conv2d` (cuDNN) or the plain network; medians. '
        'Layers: time on the device, without that of starting kernels.',
        '',
        *(
            [f'Not complete: {results["left_out"]} cases are missing.', '']
            if results['left_out']
            else []
        ),
        f'## RFAConv, geometric mean over {count} shapes',
        '',
    ]
    rows = [
        [name, *(f'{ratio:.2f}' for ratio in ratios.values())]
        for name, ratios in results['summary'].items()
    ]
    lines += table(['', *FORMS], rows)
    units = dict(inference=1e3, training=1e3, peak_mb=1, kept_mb=1)
    for name, unit in units.items():
        rows = []
        for case in results['layers']:
            if not case[name]:
                continue
            plain = case[name]['plain']
            row = [case['operator'], case['channels'], case['size']]
            row += [case['stride'], f'{plain * unit:.3f}']
            row += [f'{case[name][form] / plain:.2f}' for form in FORMS]
            rows.append(row)
        if rows:
            kind = 'ms' if unit > 1 else 'MiB'
            head = ['operator', 'channels', 'pixels', 'stride']
            head += [f'Conv2d, {kind}', *FORMS]
            lines += ['', f'## Layers, {name}', '', *table(head, rows)]
    for case in results['networks']:
        what = f'{case["network"]}, {case["size"]}x{case["size"]}'
        lines += ['', f'## {what}, batch {case["batch"]}', '']
        rows = []
        for form, spent in case['training'].items():
            row = [form, f'{spent * 1e3:.1f}']
            row.append(f'{spent / case["training"]["plain"]:.2f}')
            peak = case['peak_mb']
            row.append(f'{peak[form]:.0f}' if peak else '-')
            row.append(f'{peak[form] / peak["plain"]:.2f}' if peak else '-')
            rows.append(row)
        head = ['form', 'training step, ms', 'to plain', 'peak, MiB']
        lines += table([*head, 'to plain'], rows)
    return lines


def plot(results: dict, path: Path) -> None:
    """Ratios of RFAConv as bars, one group per shape, where drawn."""
    try:
        import matplotlib
    except ImportError:
        print('matplotlib is missing: no plot')
        return
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    cases = [c for c in results['layers'] if c['operator'] == 'RFAConv']
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), sharey=True)
    for axis, name in zip(axes, PASSES):
        for i, form in enumerate(FORMS):
            ratios = [case[name][form] / case[name]['plain'] for case in cases]
            places = [n + (i - 1) * 0.27 for n in range(len(cases))]
            bars = axis.bar(places, ratios, 0.25, label=form)
            axis.bar_label(bars, fmt='%.1f', fontsize=6)
        axis.axhline(1, color='black', linewidth=0.8)
        axis.set_xticks(range(len(cases)))
        axis.set_xticklabels(
            [f'{c["channels"]} @ {c["size"]}/{c["stride"]}' for c in cases],
            fontsize=7,
        )
        axis.set_title(f'RFAConv, {name}', fontsize=9)
    axes[0].set_ylabel('time / nn.Conv2d')
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write(results: dict, out: Path) -> None:
    """All there is so far: a run that is stopped loses one case."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix('.json').write_text(json.dumps(results, indent=1) + '\n')
    out.with_suffix('.md').write_text('\n'.join(tables(results)) + '\n')
    plot(results, out.with_suffix('.png'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, help='results, without ending')
    parser.add_argument('--rounds', type=int, default=30)
    parser.add_argument(
        '--minutes',
        type=float,
        default=8,
        help='no case is started later; compilation takes most of the time',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='tiny sizes on the CPU, kernels simulated: tests the script',
    )
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        sys.exit('error: needs a CUDA device, torch finds none')
    if gpu.unavailable():
        sys.exit(f'error: kernels for GPUs: {gpu.unavailable()}')
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # as our kernels are tuned
    device = 'cpu' if args.dry_run else 'cuda'
    simulation = nullcontext
    if args.dry_run:
        from mmrfa.testing import simulated_gpu as simulation

        shapes, batch, rounds = TINY, 1, 1
        network = ('fused',), 1, 64, 2
    else:
        shapes, batch, rounds = SHAPES, 32, args.rounds
        network = FORMS, 10, 512, 4
    results = dict(machine=machine(device), layers=[], networks=[])
    jobs = [
        ('layers', partial(layer_case, device, operator, shape, batch, rounds))
        for operator in OPERATORS
        for shape in shapes
        if shape[2] == 1 or operator is OPERATORS[0]
    ]
    try:
        import mmseg  # noqa: F401
    except ImportError as error:
        print(f'no network: {error}')
    else:
        # after the layers whose figures its own explain
        place = len(shapes)
        jobs.insert(
            place, ('networks', partial(network_case, device, *network))
        )
    end = time.monotonic() + 60 * args.minutes
    for done, (kind, job) in enumerate(jobs):
        results['left_out'] = len(jobs) - done
        if time.monotonic() > end:
            print(f'{len(jobs) - done} cases are left out: time is up')
            break
        with simulation():
            results[kind].append(job())
        results['left_out'] -= 1
        results['summary'] = summary(results['layers'])
        results['ways'] = [
            dict(key=list(map(str, key)), way=way)
            for key, way in conv.chosen.items()
        ]
        if args.out:
            write(results, args.out)
    print(json.dumps(results['summary'], indent=1))


if __name__ == '__main__':
    main()
