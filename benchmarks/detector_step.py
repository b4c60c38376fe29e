"""Where a detector's training step goes: operations and seconds by part.

    python benchmarks/detector_step.py [CONFIG] --scale 320 240

takes four training images of the config (BCCD unless another is named),
counts the multiply-adds of forward and backward, which do not depend on the
machine, and times the steps of the model. Options of the config follow
``--cfg-options``; ``--out FILE.json`` keeps the figures.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import torch
from mmengine.registry import DATASETS, FUNCTIONS
from timing import ROOT, machine, named
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmrfa.engine.cli import add_cfg_options, parse_args, run_tool
from mmrfa.engine.config import import_scope, load_config
from mmrfa.engine.run import build_model

CONFIG = 'configs/faster_rcnn/faster-rcnn_r18_fpn_1xb4-36e_bccd.py'
IMAGES = 4


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', nargs='?', default=str(ROOT / CONFIG))
    parser.add_argument('--scale', nargs=2, type=int, default=(640, 480))
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--out', type=Path)
    add_cfg_options(parser)
    args = parse_args(parser, argv)

    config = load_config(args.config, args.cfg_options)
    import_scope(config)
    model, data = build_model(config), batch(config, args.scale)
    model.init_weights()
    model.train()
    counts = operations(model, data)
    seconds = times(model, data, args.rounds)
    total = sum(counts.values())
    for part, count in counts.items():
        print(f'{part:12} {count / 1e9:8.1f} GMACs {count / total:5.0%}')
    for part, value in seconds.items():
        print(f'{part:12} {value:8.2f} s')
    if args.out:
        figures = dict(
            **machine(threads=torch.get_num_threads()),
            config=named(args.config),
            options={k: str(v) for k, v in (args.cfg_options or {}).items()},
            scale=list(args.scale),
            images=IMAGES,
            multiply_adds=counts,
            seconds=seconds,
        )
        args.out.write_text(json.dumps(figures, indent=1) + '\n')


def batch(config, scale: tuple[int, int]) -> dict:
    """The first training images, resized."""
    loader = config.train_dataloader
    for step in loader.dataset.pipeline:
        if step['type'] == 'Resize':
            step['scale'] = tuple(scale)
    dataset = DATASETS.build(loader.dataset)
    collate = FUNCTIONS.get('pseudo_collate')
    return collate([dataset[i] for i in range(IMAGES)])


def losses(model: nn.Module, data: dict) -> torch.Tensor:
    """The loss of a step."""
    data = model.data_preprocessor(data, True)
    return model.parse_losses(model(**data, mode='loss'))[0]


def operations(model: nn.Module, data: dict) -> dict[str, int]:
    """Multiply-adds of forward and backward, by part of the model."""
    counter = FlopCounterMode(display=False)
    with counter:
        losses(model, data).backward()
    counts = counter.get_flop_counts()
    top = type(model).__name__
    parts = {
        name: sum(counts[f'{top}.{name}'].values()) // 2
        for name, _ in model.named_children()
        if f'{top}.{name}' in counts
    }
    # A head of proposals computes its loss without being called itself.
    rest = sum(counts['Global'].values()) // 2 - sum(parts.values())
    return parts | dict(others=rest)


def times(model: nn.Module, data: dict, rounds: int) -> dict[str, float]:
    """Median seconds of forward and backward."""
    forward, backward = [], []
    for _ in range(rounds + 1):
        model.zero_grad()
        start = time.perf_counter()
        loss = losses(model, data)
        middle = time.perf_counter()
        loss.backward()
        forward.append(middle - start)
        backward.append(time.perf_counter() - middle)
    return dict(forward=median(forward[1:]), backward=median(backward[1:]))


if __name__ == '__main__':
    sys.exit(run_tool(main))
