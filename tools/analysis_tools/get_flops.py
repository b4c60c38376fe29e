"""Count the parameters and the forward operations of a model.

GFLOPs are 10^9 multiply-adds of one image in eval mode, as MMEngine counts
them: a convolution (grouped ones included) costs a multiply-add per weight
and output position, without its bias; matrix products likewise; an
evaluated batch norm 2 per element, bilinear resizing 4, adaptive average
pooling 1. Activations, softmax, other pooling, unfolding and elementwise
arithmetic count nothing. Operators are counted in their reference form, as
published, whatever faster form runs in practice. The papers' networks are
counted, as the papers count, by paper_tables.py --costs.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from mmrfa.engine.cli import add_cfg_options, parse_args, run_tool
from mmrfa.engine.config import import_scope, load_config, require_packages
from mmrfa.engine.naming import naming
from mmrfa.engine.run import build_model
from mmrfa.errors import InputError
from mmrfa.results.costs import Classifier, count

if TYPE_CHECKING:
    from mmengine.config import Config


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'config', nargs='?', help='config file, instead of --backbone'
    )
    parser.add_argument('--backbone', help='a type, such as RFAResNet')
    parser.add_argument('--depth', type=int, default=18, help='default: 18')
    parser.add_argument('--attention-conv', help='an operator, as RFAConv')
    parser.add_argument(
        '--num-classes',
        type=int,
        help='put pooling and a linear layer on the backbone',
    )
    parser.add_argument(
        '--shape',
        nargs='+',
        type=int,
        default=[224],
        metavar=('H', 'W'),
        help='input size in pixels, one number for a square (default: 224)',
    )
    add_cfg_options(parser)
    args = parse_args(parser, argv)
    if len(args.shape) > 2 or min(args.shape) < 1:
        raise InputError(
            f'--shape: expected one or two sizes above 0, got {args.shape}'
        )
    if (args.config is None) == (args.backbone is None):
        raise InputError(
            'expected either a config or --backbone, got '
            f'{"neither" if args.config is None else "both"}'
        )
    classes = args.num_classes
    if classes is not None and (classes < 1 or args.config is not None):
        raise InputError(
            '--num-classes: expected 1 or more, with --backbone, got '
            f'{classes} with {args.config or args.backbone}'
        )
    if args.config is None:
        require_packages()
        config = backbone_config(args)
    else:
        config = load_config(args.config, args.cfg_options)
        import_scope(config)
    model = build_model(config)
    shape = (3, args.shape[0], args.shape[-1])
    with naming(config, 'model', f'cannot look at {shape[1]} x {shape[2]}'):
        if classes is not None:
            model = Classifier(model.eval(), classes)
        params, flops = count(model, shape)
    print(f'model: {type(model).__name__}')
    print(f'input: {shape[0]} x {shape[1]} x {shape[2]}')
    print(f'parameters: {params / 1e6:.3f} M')
    print(f'forward: {flops / 1e9:.3f} GFLOPs (multiply-adds)')


def backbone_config(args: argparse.Namespace) -> 'Config':
    """Write the config of a backbone from its type and depth.

    Args:
        args (Namespace): ``backbone``, ``depth`` and ``attention_conv``.

    Returns:
        Config: with a ``model``.
    """
    from mmengine.config import Config

    backbone = dict(type=args.backbone, depth=args.depth)
    if args.attention_conv is not None:
        backbone['attention_conv'] = dict(type=args.attention_conv)
    # The name stands in messages.
    return Config(dict(model=backbone), cfg_text='#', filename='--backbone')


if __name__ == '__main__':
    sys.exit(run_tool(main))
