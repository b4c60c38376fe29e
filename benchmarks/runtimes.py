"""PyTorch, onnxruntime and OpenVINO beside each other, plain and with RFAConv.

    python benchmarks/runtimes.py --out benchmarks/results/runtimes

One image of 256x256 through DeepLabV3+ with a ResNet-18, from the normalised
image to the logits, float32, random weights. All programs have the same number
of threads and are timed in turn; ratios within a run count, seconds are those
of the machine. Needs mmrfa[onnx,openvino].
"""

import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from report import table, write
from timing import ROOT, arguments, in_turn, machine, named, on_cpu
from torch import Tensor

from mmrfa.deploy.description import INPUT, describe
from mmrfa.deploy.export import export
from mmrfa.deploy.exported import need
from mmrfa.deploy.network import build_network
from mmrfa.deploy.parts import Part, part_of
from mmrfa.engine.cli import run_tool
from mmrfa.engine.config import load_config
from mmrfa.ops.primitives.cpu import unavailable

CONFIG = (
    'configs/deeplabv3plus/deeplabv3plus_r18{}-d16_1xb8-4k_camvid-256x256.py'
)
NETWORKS = {'plain': '', 'RFAConv': '-rfa'}
SIZE = 256  # pixels


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = arguments(__doc__, rounds=30)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args(argv)
    for package in 'onnxruntime', 'openvino':
        need(package, package.removesuffix('runtime'))
    torch.set_num_threads(args.threads)
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, infix in NETWORKS.items():
            part, file = exported(ROOT / CONFIG.format(infix), Path(folder))
            for runtime, program in RUNTIMES.items():
                calls[name, runtime] = program(part, file, args.threads)
        images = [torch.randn(1, 3, SIZE, SIZE) for _ in range(3)]
        seconds = in_turn(calls, args.rounds, on_cpu(args.threads), images)
    results = dict(
        machine=machine(
            threads=args.threads,
            onnxruntime=version('onnxruntime'),
            openvino=version('openvino'),
        ),
        config=named(ROOT / CONFIG.format('')),
        size=SIZE,
        batch=1,
        rounds=args.rounds,
        form='fused' if unavailable() else 'compiled',
        seconds={
            name: {runtime: seconds[name, runtime] for runtime in RUNTIMES}
            for name in NETWORKS
        },
    )
    lines = page(results)
    print('\n'.join(lines))
    if args.out:
        write(results, args.out, lines)


def exported(config: Path, folder: Path) -> tuple[Part, Path]:
    """A network with random weights, and its file, which agrees with it."""
    config = load_config(str(config))
    torch.manual_seed(0)
    model = build_network(config)
    part = part_of(model)
    file = folder / f'{Path(config.filename).stem}.onnx'
    export(part, describe(config, model, part), file, 'onnx', (SIZE, SIZE))
    return part, file


def by_torch(part: Part, file: Path, threads: int) -> Callable:
    """The network itself, in the form that it chooses."""

    @torch.inference_mode()
    def call(images: Tensor) -> None:
        part.module(images)

    return call


def by_onnxruntime(part: Part, file: Path, threads: int) -> Callable:
    """The file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin would slow down those that are timed next.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    session = onnxruntime.InferenceSession(
        file, options, providers=['CPUExecutionProvider']
    )
    return lambda images: session.run(None, {INPUT: images.numpy()})


def by_openvino(part: Part, file: Path, threads: int) -> Callable:
    """The file, on the CPU, in float32 on every machine."""
    import openvino

    options = {
        'INFERENCE_NUM_THREADS': threads,
        'INFERENCE_PRECISION_HINT': 'f32',
        'PERFORMANCE_HINT': 'LATENCY',
    }
    network = openvino.Core().read_model(file)
    program = openvino.compile_model(network, 'CPU', options)
    return lambda images: program(images.numpy())


RUNTIMES = {
    'PyTorch': by_torch,
    'onnxruntime': by_onnxruntime,
    'OpenVINO': by_openvino,
}


def page(results: dict) -> list[str]:
    """Markdown of the results."""
    setup = ', '.join(f'{k} {v}' for k, v in results['machine'].items())
    plain, rfa = results['seconds'].values()
    rows = [
        [
            runtime,
            *(f'{times[runtime] * 1e3:.1f}' for times in (plain, rfa)),
            f'{rfa[runtime] / plain[runtime]:.2f}',
        ]
        for runtime in RUNTIMES
    ]
    size = f'{results["size"]}x{results["size"]}'
    return [
        '# Runtimes',
        '',
        f'{setup}. DeepLabV3+ R18, {results["batch"]} x {size}, float32, '
        f'medians of {results["rounds"]} rounds in turn, in milliseconds. '
        'PyTorch runs RFAConv in the form that it takes by itself, here '
        f'`{results["form"]}`; the others run stock operators.',
        '',
        *table(['', 'plain', 'RFAConv', 'RFAConv / plain'], rows),
    ]


if __name__ == '__main__':
    sys.exit(run_tool(main))
