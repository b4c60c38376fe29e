"""Print a config with everything that it inherits."""

import argparse
import sys

from mmrfa.engine.cli import add_config_arguments, parse_args, run_tool
from mmrfa.engine.config import load_config


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
    print(config.pretty_text)
    if args.save_path is not None:
        config.dump(args.save_path)


if __name__ == '__main__':
    sys.exit(run_tool(main))
