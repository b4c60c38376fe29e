"""Start operators from a trained plain network; what is kept, measured.

Trains the plain twin of a config, converts it with resnet_to_rfa.py and
records, for every operator:

- mIoU before any further step, beside that of the plain network;
- how far the features in training mode are from the plain network's, on
  batches not used before, and the training loss there: with the batch norms
  of the operators neutral, estimated from the norm layers in front (what the
  conversion does by itself), and calibrated on training images;
- with --finetune, mIoU after that many further iterations.
"""

import argparse
import json
import sys
from itertools import islice
from pathlib import Path

import torch

from mmrfa.checkpoints.reading import load_checkpoint_file
from mmrfa.conversion import calibrate
from mmrfa.engine.cli import add_config_arguments, parse_args, run_tool
from mmrfa.engine.config import import_scope, load_config
from mmrfa.engine.run import build_model, build_runner
from mmrfa.layers import OPERATORS, set_moments
from mmrfa.models.weights.plain import fill_from_plain

CONVS = {
    **{kind.__name__: dict(type=kind.__name__) for kind in OPERATORS},
    'RFAConv unfold': dict(type='RFAConv', mode='unfold'),
}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument('--work-dir', required=True, type=Path)
    parser.add_argument(
        '--out', required=True, type=Path, help='JSON to write'
    )
    parser.add_argument('--iters', type=int, default=300, help='of the twin')
    parser.add_argument('--finetune', type=int, default=0, metavar='ITERS')
    parser.add_argument('--batches', type=int, default=8, help='to calibrate')
    parser.add_argument('--operators', nargs='+', default=list(CONVS))
    args = parse_args(parser, argv)

    config = load_config(args.config, args.cfg_options)
    import_scope(config)
    config.randomness = dict(seed=0)
    plain = train(config, args.iters, args.work_dir / 'plain')
    result = dict(
        config=Path(args.config).name,
        options=args.cfg_options or {},
        iterations=args.iters,
        calibration_batches=args.batches,
        torch=torch.__version__,
        plain=dict(mIoU=evaluate(config, plain)),
        operators={},
    )
    if args.finetune:
        again = train(config, args.finetune, args.work_dir / 'more', plain)
        result['plain'] |= dict(
            finetuned=args.finetune, finetuned_mIoU=evaluate(config, again)
        )
    images = load_images(config, args.batches + 2)
    for name in args.operators:
        cfg = config.copy()
        cfg.merge_from_dict(
            {'model.backbone.attention_conv': CONVS[name]},
        )
        row, path = compare(config, cfg, plain, images, args.work_dir / name)
        row['mIoU'] = evaluate(cfg, path)
        if args.finetune:
            path = train(
                cfg, args.finetune, args.work_dir / name / 'more', path
            )
            row['finetuned_mIoU'] = evaluate(cfg, path)
        result['operators'][name] = row
        print(name, row)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + '\n')


def train(config, iters: int, folder: Path, start: str | None = None) -> str:
    """Train for a number of iterations; the last checkpoint."""
    config = config.copy()
    config.work_dir = str(folder)
    config.load_from = start
    config.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=iters, val_interval=iters + 1
    )
    for scheduler in config.param_scheduler:
        scheduler.end = min(scheduler.end, iters)
        scheduler.begin = min(scheduler.begin, iters // 4)
        if scheduler.begin == 0:
            scheduler.end = min(scheduler.end, max(iters // 4, 1))
    config.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=iters
    )
    build_runner(config, 'none', train=True).train()
    return str(folder / f'iter_{iters}.pth')


def evaluate(config, checkpoint: str) -> float:
    """Return the mIoU on the validation data."""
    config = config.copy()
    config.work_dir = str(Path(checkpoint).parent)
    config.load_from = checkpoint
    config.test_dataloader = config.val_dataloader
    config.test_evaluator = config.val_evaluator
    result = build_runner(config, 'none', train=False).test()
    return round(float(result['mIoU']), 4)


def load_images(config, count: int) -> list[dict]:
    """Return training batches, preprocessed."""
    from mmengine.registry import MODELS
    from mmengine.runner import Runner

    preprocessor = MODELS.build(config.model.data_preprocessor)
    loader = Runner.build_dataloader(config.train_dataloader, seed=1)
    return [
        preprocessor(batch, training=True) for batch in islice(loader, count)
    ]


def compare(
    plain_config, config, checkpoint: str, batches: list, folder: Path
) -> tuple[dict, str]:
    """Convert the twin, measure its training mode; result, checkpoint."""
    state = load_checkpoint_file(checkpoint)['state_dict']
    plain = build_model(plain_config)
    plain.load_state_dict(state)
    model = build_model(config)
    model.init_weights()
    heads = {k: v for k, v in state.items() if not k.startswith('backbone.')}
    model.load_state_dict(heads, strict=False)
    fill_from_plain(model.backbone, state, checkpoint)
    backbone, unseen = model.backbone, batches[-2:]
    row = dict(eval_features=far(plain, model, unseen, training=False))
    row['train_loss_plain'] = loss(plain, unseen)
    norms = [
        module.norm
        for module in backbone.modules()
        if hasattr(module, 'taps') and module.feature_norm is not None
    ]
    for stage in ('estimated', 'neutral', 'calibrated'):
        if stage == 'neutral':
            for norm in norms:
                set_moments(norm, 0, 1)
        elif stage == 'calibrated':
            calibrate(backbone, (batch['inputs'] for batch in batches[:-2]))
        row[f'train_features_{stage}'] = far(plain, model, unseen, True)
        row[f'train_loss_{stage}'] = loss(model, unseen)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / 'start.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return row, str(path)


@torch.no_grad()
def far(plain, model, batches: list, training: bool) -> list[float]:
    """Relative distance of the features of each stage, mean over batches."""
    gaps = []
    for batch in batches:
        outs = [
            frozen_copy(net.backbone, training)(batch['inputs'])
            for net in (model, plain)
        ]
        gaps.append([float((a - b).norm() / b.norm()) for a, b in zip(*outs)])
    return [round(sum(g) / len(g), 8) for g in zip(*gaps)]


@torch.no_grad()
def loss(model, batches: list) -> float:
    """Return the loss of the decode head in training mode."""
    model = frozen_copy(model, True)
    torch.manual_seed(0)  # of the dropout
    losses = [
        model.loss(batch['inputs'], batch['data_samples'])['decode.loss_ce']
        for batch in batches
    ]
    return round(float(sum(losses) / len(losses)), 6)


def frozen_copy(net, training: bool):
    """Copy, so that running statistics stay."""
    from copy import deepcopy

    return deepcopy(net).train(training)


if __name__ == '__main__':
    sys.exit(run_tool(main))
