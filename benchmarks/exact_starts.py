"""Exact starts in networks of other packages; how exact, measured.

Converts each network with each operator and compares the outputs in eval mode,
in float32 and float64, beside the rounding of the plain network in float32.
Weights are random, norms have the statistics of random images: nothing is
downloaded. Needs torchvision, timm, segmentation-models-pytorch and
ultralytics, which mmrfa does not.
"""

import argparse
import copy
import json
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmrfa import convert_convs, plan_convs
from mmrfa.conversion import Plan
from mmrfa.conversion.sample import outputs, relative_error
from mmrfa.layers import OPERATORS

PACKAGES = (
    'torch',
    'torchvision',
    'timm',
    'segmentation-models-pytorch',
    'ultralytics',
)
SIZE = 128  # pixels
BATCH = 4


class Case(NamedTuple):
    """A network, and what to convert of it."""

    build: Callable[[], nn.Module]
    where: object = None


def of_torchvision(name: str) -> nn.Module:
    """Build a network of torchvision, without weights."""
    from torchvision import models

    return models.get_model(name, weights=None)


def of_timm(name: str) -> nn.Module:
    """Build a network of timm, without weights."""
    import timm

    return timm.create_model(name, pretrained=False)


def unet() -> nn.Module:
    """Build a U-Net of segmentation_models_pytorch, without weights."""
    import segmentation_models_pytorch as smp

    return smp.Unet('resnet18', encoder_weights=None)


def yolo(name: str) -> nn.Module:
    """Build a detector of ultralytics from its own description."""
    from ultralytics import YOLO

    return YOLO(f'{name}.yaml').model


DEPTHWISE = '*.conv_dw'
CASES = {
    'torchvision resnet18': Case(lambda: of_torchvision('resnet18')),
    'torchvision mobilenet_v3_large, depthwise': Case(
        lambda: of_torchvision('mobilenet_v3_large'),
        lambda name, conv: conv.groups > 1,
    ),
    'timm resnet18': Case(lambda: of_timm('resnet18')),
    'timm regnety_002': Case(lambda: of_timm('regnety_002')),
    'timm efficientnet_b0, depthwise': Case(
        lambda: of_timm('efficientnet_b0'), DEPTHWISE
    ),
    'timm repvgg_a0': Case(lambda: of_timm('repvgg_a0')),
    'timm convnext_atto, 7x7': Case(lambda: of_timm('convnext_atto'), 7),
    'timm tf_efficientnet_b0, depthwise': Case(
        lambda: of_timm('tf_efficientnet_b0'), DEPTHWISE
    ),
    'timm resnetv2_50x1_bit': Case(lambda: of_timm('resnetv2_50x1_bit')),
    'smp Unet resnet18': Case(unet),
    'ultralytics yolo11n': Case(lambda: yolo('yolo11n')),
    'ultralytics yolov8n': Case(lambda: yolo('yolov8n')),
}


def main() -> None:
    """Measure all, write JSON, print the table of docs/any-model.md."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('out', type=Path, help='JSON to write')
    args = parser.parse_args()
    results = dict(
        versions={name: version(name) for name in PACKAGES},
        images=[BATCH, 3, SIZE, SIZE],
        networks={},
    )
    for name, case in CASES.items():
        torch.manual_seed(0)
        results['networks'][name] = measure(case)
        print(name, results['networks'][name], flush=True)
        args.out.write_text(json.dumps(results, indent=1) + '\n')
    print('\n'.join(table(results)))


def measure(case: Case) -> dict:
    """Convert a network with every operator."""
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    net, x = settle(case.build(), images), images[:1]
    plan = plan_convs(net, 'RFAConv', where=case.where, sample=x)
    alone = plan_convs(net, 'RFAConv', where=case.where)
    row = dict(
        convolutions=len(plan.rows),
        replaced=len(plan.replaced),
        skipped=dict(Counter(r.why for r in plan.skipped)),
        floors=[round(r.floor, 4) for r in plan.replaced],
        needs_sample=sum(r.floor is None for r in alone.replaced),
        errors={},
        errors_float64={},
    )
    if not plan.replaced:
        row['refused'] = plan.problem
        return row
    exact = copy.deepcopy(net).double()
    row['rounding'] = far(outputs(net, x), outputs(exact, x.double()))
    row['one_percent_off'] = far(
        outputs(one_percent_off(net, plan), x), outputs(net, x)
    )
    for kind in OPERATORS:
        name = kind.__name__
        new = convert_convs(net, name, where=case.where, sample=x)
        row['errors'][name] = far(outputs(new, x), outputs(net, x))
        if hasattr(net, 'fuse'):
            fused = copy.deepcopy(new).fuse(verbose=False)
            error = far(outputs(fused, x), outputs(net, x))
            row.setdefault('errors_fused', {})[name] = error
        y = x.double()
        new = convert_convs(exact, name, where=case.where, sample=y)
        row['errors_float64'][name] = far(outputs(new, y), outputs(exact, y))
    return row


def settle(net: nn.Module, x: Tensor) -> nn.Module:
    """Make a network in which every convolution matters, without training.

    Norms get a strength, and about the statistics of images. With these alone,
    depth multiplies every rounding error in a random network, as it does not
    in a trained one; the variances are therefore taken greater.
    """
    for name, parameter in net.named_parameters():
        if name.endswith('.gamma'):  # 1e-6 in ConvNeXt
            nn.init.uniform_(parameter, 0.5, 1.5)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        momentum, norm.momentum = norm.momentum, 1
    net.train()
    with torch.no_grad():
        net(x)
    for norm in norms:
        norm.momentum = momentum
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(1, 4)
    return net.eval()


def one_percent_off(net: nn.Module, plan: Plan) -> nn.Module:
    """Change what is replaced: does the output depend on it at all?"""
    net = copy.deepcopy(net)
    for row in plan.replaced:
        weight = net.get_submodule(row.name).weight.data
        weight *= 1 + 0.01 * torch.randn_like(weight)
    return net


def far(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Relative error, to two digits."""
    return float(f'{relative_error(ours, theirs):.1e}')


def worst(errors: dict[str, float], learned: bool | None = None) -> str:
    """Of operators with learned features, of the others, or of all."""
    first = [kind.__name__ for kind in OPERATORS[:3]]
    chosen = [e for k, e in errors.items() if learned in (None, k in first)]
    return f'{max(chosen):.1e}'


def table(results: dict) -> list[str]:
    """The results as a table of the documents.

    Args:
        results (dict): what the JSON holds.
    """
    lines = [
        '| Network | Replaced | Learned features | Other operators | float64 '
        '| Plain, rounding |',
        '|---|---|---|---|---|---|',
    ]
    for name, row in results['networks'].items():
        count = f'{row["replaced"]} of {row["convolutions"]}'
        stays = ', '.join(f'{n} {why}' for why, n in row['skipped'].items())
        count += f' ({stays})' if stays else ''
        if not row['replaced']:
            lines.append(f'| {name} | {count} | - | - | - | - |')
            continue
        cells = [
            name,
            count,
            worst(row['errors'], True),
            worst(row['errors'], False),
            worst(row['errors_float64']),
            f'{row["rounding"]:.1e}',
        ]
        lines.append(f'| {" | ".join(cells)} |')
        if 'errors_fused' in row:
            cells = [
                f'{name}, behind `fuse()`',
                'the same',
                worst(row['errors_fused'], True),
                worst(row['errors_fused'], False),
            ]
            lines.append(f'| {" | ".join(cells)} | - | - |')
    return lines


if __name__ == '__main__':
    main()
