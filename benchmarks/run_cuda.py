"""Time the operators on a GPU against cuDNN's convolution.

    python benchmarks/run_cuda.py --out benchmarks/results/cuda_NAME

needs torch, triton and this package, and for the whole network mmseg. Writes
NAME.json (every figure, GPU, driver, versions, commit), NAME.md (tables) and
NAME.png, after every case. Batch 32, bfloat16, channels last; CUDA events, all
forms in turn on several inputs, medians. A form is warmed up first, which
compiles and tunes the kernels.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median

import report
import torch
from timing import (
    LAYERS,
    OPERATORS,
    ROOT,
    arguments,
    compare,
    in_form,
    machine,
    means,
    say,
    training_step,
)
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmrfa.ops.primitives.gpu import conv, launch, unavailable

FORMS = ('reference', 'fused', 'compiled')
# Channels, pixels of the input, stride.
SHAPES = [(*layer, 1) for layer in LAYERS]
SHAPES += [(128, 56, 2), (256, 28, 2), (512, 14, 2)]
TINY = [(4, 3, 2)]
CONFIGS = ROOT / 'configs/deeplabv3plus'
CONFIG = 'deeplabv3plus_r50{}-d8_4xb4-20k_voc12aug-512x512.py'
NOTE = (
    'Ratios are to `nn.Conv2d` (cuDNN) or the plain network; medians. Layers: '
    'time on the device, without that of starting kernels.'
)


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
    torch.cuda.synchronize()
    if ahead:
        spent, was_ahead = launch.device_time(call)
        if not was_ahead:
            sys.exit('error: starting the kernels takes longer than waiting')
        return spent
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
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


def memory(modules: dict[str, nn.Module], x: Tensor) -> dict[str, dict]:
    """Memory of a training step in every form.

    Args:
        modules (dict): module by name of the form.
        x (Tensor): input.

    Returns:
        dict: ``{'peak_mb': {form: MiB of the step}, 'kept_mb': {form: MiB
        between forward and backward, input and output included}}``; empty
        without a GPU.
    """
    found = {'peak_mb': {}, 'kept_mb': {}}
    device = x.device.type
    x = x.detach().requires_grad_()

    def forward(form: str, module: nn.Module) -> list:
        kept = []
        in_form(form, lambda m, x: kept.append(m(x)), module, x)
        return kept

    for form, module in modules.items():
        if device != 'cpu':
            module.train().zero_grad()
            step = partial(in_form, form, training_step, module, x)
            found['peak_mb'][form] = mebibytes(step, device)['peak']
            kept = mebibytes(partial(forward, form, module), device)['kept']
            found['kept_mb'][form] = kept + x.nbytes / 2**20
    return found


def kernels(module: nn.Module, x: Tensor) -> dict[str, float]:
    """Milliseconds on the device by kernel, the longest first.

    Of a training step by the compiled form; empty without a GPU.
    """
    if x.device.type == 'cpu':
        return {}
    x = x.detach().requires_grad_()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        in_form('compiled', training_step, module.train(), x)
        torch.cuda.synchronize()
    spent = {
        e.key: e.self_device_time_total / 1e3 for e in found.key_averages()
    }
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


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
    clock = partial(seconds, device=device, ahead=True)
    case = dict(
        operator=operator.__name__,
        channels=channels,
        size=size,
        stride=stride,
        batch=batch,
        **compare(modules, inputs, rounds, clock),
        **memory(modules, inputs[0]),
        kernels_ms=kernels(ours, inputs[0]),
    )
    return say(case)


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
            in_form(form, step, net, image)

        call()  # warms up
        times = [seconds(call, device, ahead=False) for _ in range(rounds)]
        found['training'][form] = median(times)
        used = mebibytes(call, device)
        if used is not None:
            # with the network, which was there before
            own = torch.cuda.memory_allocated() / 2**20
            found['peak_mb'][form] = used['peak'] + own
        del net, call
    name = 'DeepLabV3+ ResNet-50'
    return say(dict(network=name, batch=batch, size=size, **found))


def gpu(device: str) -> dict:
    """The card and what drives it."""
    import triton

    found = dict(
        triton=triton.__version__,
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


def finish(results: dict, out: Path | None) -> None:
    """Sum up and write all there is: a run that is stopped loses one case."""
    cases = [c for c in results['layers'] if c['operator'] == 'RFAConv']
    results['summary'] = {
        name: means(cases, name)
        for name in report.FIGURES
        if all(case[name] for case in cases)
    }
    results['ways'] = [
        dict(key=list(map(str, key)), way=way)
        for key, way in conv.chosen.items()
    ]
    if out:
        note = NOTE
        if results['left_out']:
            note += f' Not complete: {results["left_out"]} cases are missing.'
        lines = report.tables(results, 'Benchmark on a GPU', note)
        report.write(results, out, lines)
        report.plot(cases, out.with_suffix('.png'))


def main() -> None:
    parser = arguments(__doc__, rounds=30)
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
    if unavailable():
        sys.exit(f'error: kernels for GPUs: {unavailable()}')
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
    results = dict(machine=machine(**gpu(device)), layers=[], networks=[])
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
        finish(results, args.out)
    print(json.dumps(results['summary'], indent=1))


if __name__ == '__main__':
    main()
