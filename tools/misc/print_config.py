"""Print a config with everything that it inherits."""

import argparse
import sys
from pathlib import Path

from mmrfa.checkpoints.writing import (
    check_folder,
    check_target,
    written_aside,
)
from mmrfa.engine.cli import add_config_arguments, parse_args, run_tool
from mmrfa.engine.config import SUFFIXES, load_config
from mmrfa.errors import InputError


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        '--save-path',
        metavar='FILE',
        help='also write it to this file (.py, .json or .yaml)',
    )
    args = parse_args(parser, argv)
    config = load_config(args.config, args.cfg_options)
    if args.save_path is not None:
        target = Path(args.save_path)
        if target.suffix not in SUFFIXES:
            raise InputError(
                f'--save-path: expected a name that ends in '
                f'{", ".join(SUFFIXES)}, got {target}'
            )
        check_target(args.config, target)
        check_folder(target.parent)
        with written_aside(target) as part:
            config.dump(part)
    print(config.pretty_text)


if __name__ == '__main__':
    sys.exit(run_tool(main))
