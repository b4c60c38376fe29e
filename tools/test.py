"""Test a checkpoint with the test data and metrics of its config."""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

try:
    from mmrfa.checkpoints.writing import (
        check_folder,
        check_target,
        written_aside,
    )
    from mmrfa.engine.cli import add_run_arguments, parse_args, run_tool
    from mmrfa.engine.config import load_config, set_work_dir
    from mmrfa.engine.run import build_runner
    from mmrfa.errors import InputError
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmrfa (README.md), or use .venv/bin')

# By scope: the hook that draws, and its argument for the output folder.
DRAWING = {
    'mmseg': ('SegVisualizationHook', None),
    'mmdet': ('mmdet.DetVisualizationHook', 'test_out_dir'),
    'mmyolo': ('mmdet.DetVisualizationHook', 'test_out_dir'),
    'mmpretrain': ('VisualizationHook', 'out_dir'),
}


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    add_run_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        metavar='FILE.pkl',
        help='write the predictions to this file',
    )
    parser.add_argument(
        '--show', action='store_true', help='show the predictions in a window'
    )
    parser.add_argument(
        '--show-dir',
        metavar='FOLDER',
        help='write pictures of the predictions below this folder',
    )
    parser.add_argument(
        '--wait-time',
        type=float,
        default=2,
        metavar='SECONDS',
        help='how long --show shows each picture (default: 2)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation, as tta_model and tta_pipeline of the '
        'config say',
    )
    args = parse_args(parser, argv)

    config = load_config(args.config, args.cfg_options)
    set_work_dir(config, args.work_dir)
    config.load_from, config.resume = args.checkpoint, False
    if args.out is not None:
        check_target(args.checkpoint, args.out)
        check_folder(Path(args.out).parent)
        dump_predictions(config, args.out)
    if args.show or args.show_dir is not None:
        draw_predictions(config, args)
    if args.tta:
        use_tta(config)
    runner = build_runner(config, args.launcher, train=False)
    if args.out is not None:
        dump_whole(runner.test_loop.evaluator.metrics)
    runner.test()


def dump_whole(metrics: list) -> None:
    """Let a file of predictions stay until the new one is whole.

    Args:
        metrics (list[BaseMetric]): those that write predictions change.
    """
    from mmengine.evaluator import DumpResults
    from mmengine.fileio import dump

    def write(metric: DumpResults, results: list) -> dict:
        with written_aside(Path(metric.out_file_path)) as part:
            dump(results, part)
        print(f'predictions: {metric.out_file_path}')
        return {}

    for metric in metrics:
        if isinstance(metric, DumpResults):
            metric.compute_metrics = partial(write, metric)


def dump_predictions(config, path: str) -> None:
    """Add the writing of predictions to the metrics.

    Args:
        config (Config): changed in place.
        path (str): the file.

    Raises:
        InputError: no name of a pickle file.
    """
    if Path(path).suffix not in ('.pkl', '.pickle'):
        raise InputError(
            f'--out: expected a name that ends in .pkl or .pickle, got {path}'
        )
    detection = _scope(config) in ('mmdet', 'mmyolo')  # packs its masks
    kind = 'mmdet.DumpDetResults' if detection else 'DumpResults'
    metrics = config.get('test_evaluator')
    if not metrics:
        raise InputError(
            f'--out: expected test_evaluator in config {config.filename}, '
            'found none'
        )
    if 'metrics' in metrics:  # an Evaluator's settings
        metrics = metrics['metrics']
    config.test_evaluator = [
        *(metrics if isinstance(metrics, list | tuple) else [metrics]),
        dict(type=kind, out_file_path=path),
    ]


def draw_predictions(config, args: argparse.Namespace) -> None:
    """Turn on the hook that draws.

    Args:
        config (Config): changed in place.
        args (Namespace): ``show``, ``show_dir`` and ``wait_time``.

    Raises:
        InputError: no such hook in the package of the config, no display,
            or no folder to write to.
    """
    if _scope(config) not in DRAWING:
        raise InputError(
            '--show and --show-dir: expected default_scope '
            f'{" or ".join(DRAWING)} in the config, got {_scope(config)}'
        )
    displays = 'DISPLAY', 'WAYLAND_DISPLAY'
    if (
        args.show
        and sys.platform == 'linux'
        and not any(os.environ.get(name) for name in displays)
    ):
        raise InputError(
            '--show: expected a display ($DISPLAY), found none; --show-dir '
            'writes the pictures to a folder'
        )
    kind, folder = DRAWING[_scope(config)]
    # Every image: during training these hooks draw one in fifty.
    options = dict(type=kind, show=args.show, wait_time=args.wait_time)
    options['interval'] = 1
    options['enable' if kind == 'VisualizationHook' else 'draw'] = True
    if args.show_dir is not None:
        check_folder(Path(args.show_dir))
        target = str(Path(args.show_dir).absolute())
        if folder is None:
            config.merge_from_dict({'visualizer.save_dir': target})
        else:
            options[folder] = target
    config.merge_from_dict({'default_hooks.visualization': options})


def use_tta(config) -> None:
    """Wrap the model and replace the test pipeline.

    Args:
        config (Config): changed in place.

    Raises:
        InputError: the config does not say how.
    """
    wanted = 'tta_model', 'tta_pipeline', 'test_dataloader'
    lacking = [key for key in wanted if config.get(key) is None]
    if lacking:
        raise InputError(
            f'--tta: expected {" and ".join(lacking)} in config '
            f'{config.filename}, found none'
        )
    dataset = config.test_dataloader.dataset
    while 'dataset' in dataset:  # wrappers
        dataset = dataset.dataset
    dataset.pipeline = config.tta_pipeline
    config.model = dict(**config.tta_model, module=config.model)


def _scope(config) -> str:
    return config.get('default_scope') or 'mmengine'


if __name__ == '__main__':
    sys.exit(run_tool(main))
