"""Let a trained network look at images, a video or a camera.

Takes what the config's test data would be prepared with. Writes overlays,
and masks (segmentation), boxes in COCO's form (detection) or labels
(classification). In place of the checkpoint it takes what tools/export.py
writes.
"""

import argparse
import sys

try:
    from mmrfa.deploy.exported import load_any
    from mmrfa.deploy.network import checked_device
    from mmrfa.deploy.outputs import Outputs
    from mmrfa.deploy.predictor import Predictor
    from mmrfa.deploy.sources import Source
    from mmrfa.engine.cli import (
        add_config_arguments,
        add_trust,
        one_line,
        parse_args,
        run_tool,
    )
    from mmrfa.engine.config import load_config
    from mmrfa.errors import InputError
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmrfa (README.md), or use .venv/bin')


def main(argv: list[str] | None = None) -> int:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.

    Returns:
        int: exit status; 1 where images were left out.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='checkpoint, or a file of tools/export.py'
    )
    parser.add_argument(
        'input',
        help='image, folder of images, pattern ("photos/**/*.jpg", in '
        'quotes), video, or index of a camera',
    )
    parser.add_argument(
        '--out', required=True, metavar='FOLDER', help='folder to write to'
    )
    parser.add_argument(
        '--device', help='cpu, cuda, cuda:1 (default: a GPU if there is one)'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=1,
        metavar='N',
        help='images at once; neighbours of one size share a batch '
        '(default: 1)',
    )
    parser.add_argument(
        '--limit',
        type=int,
        metavar='N',
        help='images or frames at most; a camera runs to Ctrl-C without it',
    )
    parser.add_argument(
        '--score',
        type=float,
        default=0.3,
        help='draw boxes from this score on (default: 0.3)',
    )
    add_trust(parser)
    args = parse_args(parser, argv)
    for name in ('batch_size', 'limit'):
        value = getattr(args, name)
        if value is not None and value < 1:
            option = name.replace('_', '-')
            raise InputError(f'--{option}: expected 1 or more, got {value}')
    if not 0 <= args.score <= 1:
        raise InputError(f'--score: expected 0 to 1, got {args.score}')

    source = Source(args.input, args.limit)
    device = checked_device(args.device)
    config = load_config(args.config, args.cfg_options)
    model = load_any(config, args.checkpoint, device)
    predictor = Predictor(config, model)
    outputs = Outputs(args.out, config, model.dataset_meta, source, args.score)
    count, lost = predict(predictor, source, outputs, args.batch_size)
    print(f'{count} images: {args.out}')
    if source.count is not None and count + len(lost) < source.count:
        print(
            f'{args.input}: could be read up to image {count} of '
            f'{source.count}',
            file=sys.stderr,
        )
    return int(bool(lost))


def predict(
    predictor: Predictor, source: Source, outputs: Outputs, batch_size: int
) -> tuple[int, list[InputError]]:
    """Predict and write, with a progress bar on stderr.

    Args:
        predictor (Predictor): what looks.
        source (Source): at what.
        outputs (Outputs): where it is written.
        batch_size (int): images at once.

    Returns:
        tuple[int, list[InputError]]: number of images, and what is wrong
        with those that cannot be read or drawn. Ctrl-C ends a camera's stream
        in good order.

    Raises:
        InputError: none can be read.
    """
    from mmengine.utils import ProgressBar

    lost = []
    bar = ProgressBar(source.count or 0, file=sys.stderr)
    with outputs:
        try:
            for prediction in predictor(source, batch_size, lost):
                try:
                    outputs.write(prediction)
                except InputError as error:
                    if source.video is not None:
                        raise
                    lost.append(error)
                    continue
                bar.update()
            if lost and not bar.completed:
                raise lost[0]
        except KeyboardInterrupt:
            if source.count is not None:
                raise
        finally:
            print(file=sys.stderr)  # behind the bar
            for error in lost if bar.completed else ():
                print(f'left out: {one_line(error)}', file=sys.stderr)
    return bar.completed, lost


if __name__ == '__main__':
    sys.exit(run_tool(main))
