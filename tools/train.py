"""Train what a config describes: segmentation, detection, classification."""

import argparse
import sys

try:
    from mmrfa.engine.cli import add_run_arguments, parse_args, run_tool
    from mmrfa.engine.config import load_config, set_work_dir
    from mmrfa.engine.resuming import AUTO
    from mmrfa.engine.run import build_runner
    from mmrfa.errors import InputError
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmrfa (README.md), or use .venv/bin')


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    add_run_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const=AUTO,
        metavar='CHECKPOINT',
        help='go on where a run stopped: with its latest checkpoint in the '
        'work dir if there is one, or with the one given',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='automatic mixed precision (needs a GPU)',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the batch size, in proportion to '
        'auto_scale_lr.base_batch_size of the config',
    )
    args = parse_args(parser, argv)

    config = load_config(args.config, args.cfg_options)
    set_work_dir(config, args.work_dir)
    if args.resume == AUTO:
        config.resume = AUTO
    elif args.resume is not None:
        config.resume, config.load_from = True, args.resume
    if args.amp:
        use_amp(config)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (config.get('auto_scale_lr') or {}):
            raise InputError(
                '--auto-scale-lr: expected auto_scale_lr.base_batch_size in '
                f'config {args.config}, found none'
            )
        config.auto_scale_lr.enable = True
    build_runner(config, args.launcher, train=True).train()


def use_amp(config) -> None:
    """Switch a config to mixed precision.

    Args:
        config (Config): changed in place.

    Raises:
        InputError: no GPU, or an optimizer wrapper of another kind.
    """
    from mmengine.device import get_device

    if get_device() == 'cpu':
        raise InputError('--amp: expected a GPU, found none')
    kind = config.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise InputError(
            '--amp: expected optim_wrapper.type OptimWrapper in the config, '
            f'got {kind}'
        )
    config.optim_wrapper.type = 'AmpOptimWrapper'
    config.optim_wrapper.setdefault('loss_scale', 'dynamic')


if __name__ == '__main__':
    sys.exit(run_tool(main))
