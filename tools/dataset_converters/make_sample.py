"""Generate the sample data set of demo and tests."""

import argparse
import sys

from mmrfa.datasets.sample import write_sample
from mmrfa.engine.cli import parse_args, run_tool


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', help='data root to write, e.g. data/sample')
    parser.add_argument('--num-train', type=int, default=160)
    parser.add_argument('--num-val', type=int, default=40)
    parser.add_argument(
        '--size', type=int, default=96, help='height and width, in pixels'
    )
    parser.add_argument('--seed', type=int, default=0)
    args = parse_args(parser, argv)
    out = write_sample(
        args.out, args.num_train, args.num_val, args.size, args.seed
    )
    print(f'{args.num_train} + {args.num_val} images in {out}')


if __name__ == '__main__':
    sys.exit(run_tool(main))
