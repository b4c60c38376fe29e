"""Count the parameters and the forward operations of a model.

GFLOPs are 10^9 multiply-adds of one image in eval mode, as MMEngine counts
them: a convolution (grouped ones included) costs a multiply-add per weight
and output position, without its bias; matrix products likewise; an
evaluated batch norm 2 per element, bilinear resizing 4, adaptive average
pooling 1. Activations, softmax, other pooling, unfolding and elementwise
arithmetic count nothing. Operators are counted in their reference form, as
published, whatever faster form runs in practice.
"""

import argparse
import logging
import sys

import torch
from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.ops import use_backend
from mmrfa.utils.cli import add_cfg_options, parse_args, run_tool
from mmrfa.utils.config import import_scope, load_config, require_packages
from mmrfa.utils.run import build_model


class Classifier(nn.Module):
    """A backbone with global average pooling and a linear layer."""

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.no_grad():
            channels = backbone(torch.zeros(1, 3, 64, 64))[-1].shape[1]
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (N, 3, H, W); scores (N, num_classes)."""
        x = self.backbone(x)[-1]
        return self.fc(x.mean((2, 3)))


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
    if args.config is None:
        model = build_backbone(args)
    else:
        config = load_config(args.config, args.cfg_options)
        import_scope(config)
        model = build_model(config)

    shape = (3, args.shape[0], args.shape[-1])
    params, flops = count(model, shape)
    print(f'model: {type(model).__name__}')
    print(f'input: {shape[0]} x {shape[1]} x {shape[2]}')
    print(f'parameters: {params / 1e6:.3f} M')
    print(f'forward: {flops / 1e9:.3f} GFLOPs (multiply-adds)')


def build_backbone(args: argparse.Namespace) -> nn.Module:
    """Build a backbone from its type and depth.

    Args:
        args (Namespace): ``backbone``, ``depth``, ``attention_conv`` and
            ``num_classes``.

    Returns:
        nn.Module: the backbone, with a linear layer if classes are given.

    Raises:
        InputError: unknown type, or arguments it does not take.
    """
    require_packages()
    from mmengine.config import Config

    backbone = dict(type=args.backbone, depth=args.depth)
    if args.attention_conv is not None:
        backbone['attention_conv'] = dict(type=args.attention_conv)
    model = build_model(Config(dict(model=backbone)))
    if args.num_classes is not None:
        model = Classifier(model.eval(), args.num_classes)
    return model


def count(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, float]:
    """Count parameters and operations.

    Args:
        model (nn.Module): put into eval mode.
        shape (tuple[int, int, int]): channels, height and width.

    Returns:
        tuple[int, float]: parameters, and multiply-adds for one image.

    Raises:
        InputError: the model does not take an image of this shape.
    """
    from mmengine.analysis import FlopAnalyzer

    model.eval()
    params = sum(p.numel() for p in model.parameters())
    # It warns about every kind of operation that counts nothing.
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    with torch.no_grad(), use_backend('reference'):
        analyzer = FlopAnalyzer(model, (torch.zeros(1, *shape),))
        analyzer.unsupported_ops_warnings(False)
        analyzer.uncalled_modules_warnings(False)
        flops = analyzer.total()
    return params, flops


if __name__ == '__main__':
    sys.exit(run_tool(main))
