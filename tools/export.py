"""Export a trained network for other programs: ONNX, torch, OpenVINO.

Batch, height and width stay free. The file is compared with PyTorch at two
sizes, and kept only if it agrees. Its metadata, under the key mmrfa, say how
images are prepared and what the outputs mean.

Segmentors and classifiers are exported whole, to the logits. One-stage
detectors up to the raw outputs of their head; boxes are decoded by
tools/predict.py, or by you. Of two-stage detectors the backbone and the neck.
"""

import argparse
import sys
from pathlib import Path

try:
    from mmrfa.checkpoints.writing import (
        check_folder,
        check_target,
        written_aside,
    )
    from mmrfa.deploy.description import INPUT, describe
    from mmrfa.deploy.export import FORMATS, export
    from mmrfa.deploy.exported import load_any
    from mmrfa.deploy.int8 import calibration, evaluate, quantize
    from mmrfa.deploy.network import checked_device, load_network
    from mmrfa.deploy.parts import part_of
    from mmrfa.deploy.sources import Source
    from mmrfa.engine.cli import (
        add_config_arguments,
        add_trust,
        parse_args,
        run_tool,
    )
    from mmrfa.engine.config import load_config
    from mmrfa.errors import InputError
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmrfa (README.md), or use .venv/bin')

MOST_PIXELS = 1 << 26  # to trace with; the file takes images of any size


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint')
    parser.add_argument(
        '--to',
        required=True,
        choices=FORMATS,
        help='onnx; torch_export (torch.export.load runs it); aoti (compiled '
        'for this machine, needs a C++ compiler); openvino',
    )
    parser.add_argument(
        '--out', metavar='FILE', help='default: beside the checkpoint'
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        default=[256, 320],
        metavar=('H', 'W'),
        help='size, in pixels, of the images that are traced (default: 256 '
        '320); the file takes any other',
    )
    parser.add_argument(
        '--device', default='cpu', help='cpu or cuda (default: cpu)'
    )
    parser.add_argument(
        '--int8',
        metavar='IMAGES',
        help='with --to onnx: beside FILE.onnx also FILE.int8.onnx, whose '
        'ranges are those of these images (a folder or a pattern; some '
        'dozens of those trained on); both are scored on the test data',
    )
    parser.add_argument(
        '--score-images',
        type=int,
        default=100,
        metavar='N',
        help='score the files of --int8 on the first N test images '
        '(default: 100)',
    )
    add_trust(parser)
    args = parse_args(parser, argv)
    if args.int8 is not None and args.to != 'onnx':
        raise InputError(f'--int8: expected --to onnx, got {args.to}')
    if min(args.size) < 32 or args.size[0] * args.size[1] > MOST_PIXELS:
        raise InputError(
            f'--size: expected 32 or more each, {MOST_PIXELS} pixels at most, '
            f'got {args.size}'
        )
    if not Path(args.checkpoint).is_file():
        raise InputError(
            f'checkpoint {args.checkpoint}: expected a file, found none'
        )
    suffix = FORMATS[args.to].suffix
    target = Path(args.out or Path(args.checkpoint).with_suffix(suffix))
    if target.suffix != suffix:
        raise InputError(
            f'--out: expected a name that ends in {suffix}, got {target}'
        )
    check_target(args.checkpoint, target)
    check_folder(target.parent)

    images = None if args.int8 is None else Source(args.int8)
    device = checked_device(args.device)
    config = load_config(args.config, args.cfg_options)
    if images is not None:
        check_scoring(config, args.score_images)
    model = load_network(config, args.checkpoint).to(device)
    part = part_of(model)
    description = describe(config, model, part)
    size = tuple(args.size)
    differences = export(part, description, target, args.to, size)
    for shape, difference in differences.items():
        print(f'{shape}: differs from PyTorch by {difference:.1e} at most')
    print(f'{part.task}: {part.after}')
    print(f'written: {target}')
    if images is not None:
        to_int8(config, model, images, target, args.score_images)


def check_scoring(config, count: int) -> None:
    """Make sure that files can be scored, before any is made.

    Args:
        config (Config): of the run.
        count (int): of ``--score-images``.

    Raises:
        InputError: no test data.
    """
    from mmrfa.datasets import check_data_roots

    if count < 1:
        raise InputError(f'--score-images: expected 1 or more, got {count}')
    check_data_roots(config, ('test_dataloader',))


def to_int8(config, model, images: Source, source: Path, count: int) -> None:
    """Write FILE.int8.onnx, and say what it costs in accuracy.

    Args:
        config (Config): of the run.
        model (nn.Module): its network.
        images (Source): to calibrate with.
        source (Path): FILE.onnx.
        count (int): test images to score.
    """
    import torch

    target = source.with_suffix('.int8.onnx')
    with written_aside(target) as path:
        quantize(source, path, INPUT, calibration(config, model, images))
        scores = [
            evaluate(
                config, load_any(config, str(f), torch.device('cpu')), count
            )
            for f in (source, path)
        ]
        size = path.stat().st_size / source.stat().st_size
    for name, before in scores[0].items():
        print(
            f'{name}: {before:.2f} in float32, {scores[1][name]:.2f} in int8'
        )
    print(f'written: {target}, {size:.0%} of the size')


if __name__ == '__main__':
    sys.exit(run_tool(main))
