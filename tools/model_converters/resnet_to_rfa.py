"""Turn an ordinary ResNet checkpoint into one for RFAResNet, without loss.

SRC has the names of torchvision, MMSegmentation, MMDetection or MMPretrain
(V1, V1c or V1d). In eval mode the features stay the same; --calibrate makes
those of the training mode as close as they get. Use the result with
init_cfg=dict(type='Pretrained', checkpoint='DST'), or, with --whole, as
load_from of a config.
"""

import argparse
import sys

from mmrfa.checkpoints.names import DEPTHS, find_prefix
from mmrfa.checkpoints.reading import load_checkpoint_file, state_dict_of
from mmrfa.checkpoints.writing import check_target, save
from mmrfa.engine.cli import add_cfg_options, add_trust, parse_args, run_tool
from mmrfa.engine.config import import_scope, load_config, require_packages
from mmrfa.errors import InputError
from mmrfa.openmmlab import import_package


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('src', help='checkpoint of an ordinary ResNet')
    parser.add_argument('dst', help='checkpoint to write')
    depths = list(DEPTHS.values())
    parser.add_argument('--depth', type=int, required=True, choices=depths)
    parser.add_argument(
        '--attention-conv', required=True, help='an operator, as RFAConv'
    )
    parser.add_argument(
        '--imports',
        nargs='+',
        metavar='MODULE',
        help='modules that register operators of your own',
    )
    parser.add_argument(
        '--mode', help="of RFAConv, 'group' (its default) or 'unfold'"
    )
    parser.add_argument(
        '--stages',
        nargs='+',
        type=int,
        choices=(1, 2, 3, 4),
        default=(1, 2, 3, 4),
        help='stages that get the operator (default: all)',
    )
    parser.add_argument(
        '--calibrate',
        metavar='CONFIG',
        help='measure what the operators see on training images of this '
        'config, whose backbone must be an RFAResNet',
    )
    parser.add_argument(
        '--batches',
        type=int,
        default=8,
        help='how many batches --calibrate takes (default: 8)',
    )
    parser.add_argument(
        '--whole',
        action='store_true',
        help='keep the rest of a detector or segmentor, with all names',
    )
    add_trust(parser)
    add_cfg_options(parser)
    args = parse_args(parser, argv)
    require_packages()
    from mmrfa.models.weights.plain import fill_from_plain, network_settings

    for module in args.imports or []:
        import_package(module)

    if args.batches < 1:
        raise InputError(f'--batches: expected 1 or more, got {args.batches}')
    check_target(args.src, args.dst)
    content = load_checkpoint_file(args.src)
    state = state_dict_of(content, args.src)
    settings = network_settings(state, args.src)
    if settings['depth'] != args.depth:
        raise InputError(
            f'checkpoint {args.src}: expected a ResNet-{args.depth}, got a '
            f'ResNet-{settings["depth"]}'
        )
    settings['attention_conv'] = dict(type=args.attention_conv)
    if args.mode is not None:
        settings['attention_conv']['mode'] = args.mode
    settings['stage_with_attention_conv'] = tuple(
        stage in args.stages for stage in (1, 2, 3, 4)
    )
    config = None
    if args.calibrate is not None:
        config = load_config(args.calibrate, args.cfg_options)
    net = build(settings, config)
    report = fill_from_plain(net, state, args.src)
    if config is not None:
        batches = calibrate(net, config, args.batches)

    converted = net.state_dict()
    if args.whole:
        prefix = find_prefix(state, args.src)
        converted = {f'{prefix}{key}': v for key, v in converted.items()}
        converted |= {key: state[key] for key in report.dropped}
        report.converted |= {key: f'{key}, as it is' for key in report.dropped}
        report.dropped.clear()
    meta = dict(backbone=settings)
    if isinstance(content.get('meta'), dict):
        known = content['meta'].get('dataset_meta')
        meta |= {} if known is None else dict(dataset_meta=known)
    save(dict(meta=meta, state_dict=converted), args.dst)
    print(report)
    print(
        f'ResNet-{args.depth} as {args.attention_conv}: wrote {args.dst}'
        + (f', calibrated on {batches} batches' if config else '')
    )


def build(settings: dict, config: 'Config | None') -> 'RFAResNet':  # noqa: F821
    """Build the network to fill.

    Args:
        settings (dict): arguments of ``RFAResNet``.
        config (Config | None): its strides, dilations and so on are taken.

    Returns:
        RFAResNet: with reproducible random weights.

    Raises:
        InputError: an operator that does not exist, or a config with
            another backbone.
    """
    import torch

    from mmrfa.models import RFAResNet

    backbone = {}
    if config is not None:
        backbone = dict(config.get('model', {}).get('backbone', {}))
        kind = backbone.pop('type', None)
        if kind not in ('RFAResNet', 'RFAResNetV1c'):
            raise InputError(
                f'config {config.filename}: expected an RFAResNet as '
                f'model.backbone, got {kind!r}'
            )
        for key, own in (
            ('depth', backbone.get('depth')),
            ('deep_stem', kind == 'RFAResNetV1c'),
        ):
            if own != settings[key]:
                raise InputError(
                    f'config {config.filename}: expected a backbone with '
                    f'{key}={settings[key]}, as the checkpoint has, got {own}'
                )
        backbone |= dict(init_cfg=None, pretrained=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            net = RFAResNet(**{**backbone, **settings})
        except TypeError as error:
            raise InputError(
                f'--attention-conv {settings["attention_conv"]}: {error}'
            ) from error
        net.init_weights()
    return net


def calibrate(net: 'RFAResNet', config: 'Config', batches: int) -> int:  # noqa: F821
    """Measure on training images what the operators see.

    Args:
        net (RFAResNet): filled; changed in place.
        config (Config): gives data and their preprocessing.
        batches (int): how many at most.

    Returns:
        int: how many there were.

    Raises:
        InputError: there was none.
    """
    from itertools import islice

    from mmengine.registry import MODELS
    from mmengine.runner import Runner

    from mmrfa import conversion
    from mmrfa.datasets import check_data_roots

    import_scope(config)
    check_data_roots(config, ('train_dataloader',))
    settings = config.model.get('data_preprocessor')
    preprocessor = MODELS.build(settings or config.data_preprocessor)
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    count = conversion.calibrate(
        net,
        (
            preprocessor(batch, training=True)['inputs']
            for batch in islice(loader, batches)
        ),
    )
    if not count:
        raise InputError(
            f'config {config.filename}: train_dataloader: expected a batch to '
            'calibrate on, got none'
        )
    return count


if __name__ == '__main__':
    sys.exit(run_tool(main))
