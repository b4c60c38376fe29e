"""Bytes of a training step of the main segmentation networks, by form.

    python benchmarks/memory.py --out benchmarks/results/memory

For DeepLabV3, DeepLabV3+ and FCN with RFA-R50-D8, two images of 512x512: what
is kept for backward, and the peak of a step, over those of the plain network.
Tensors are counted, not measured: the step runs on tensors without data, so
that the figures are the same everywhere, and no memory is needed. A library's
own workspace does not count. Device meta takes the ways that are taken on
every device but a CPU: what the fused form follows to need on a GPU.
"""

import argparse
import weakref
from contextlib import nullcontext
from pathlib import Path

import torch
from report import table, write
from timing import ROOT, machine
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from mmrfa.engine.config import import_scope, load_config
from mmrfa.ops import use_backend

CONFIGS = {
    f'{name} R50-D8': f'configs/{folder}/{folder}_r50{{}}-d8_4xb4-20k_'
    'voc12aug-512x512.py'
    for name, folder in (
        ('DeepLabV3', 'deeplabv3'),
        ('DeepLabV3+', 'deeplabv3plus'),
        ('FCN', 'fcn'),
    )
}
FORMS = {
    'cpu': ('plain', 'reference', 'fused', 'compiled'),
    'meta': ('plain', 'reference', 'fused'),
}


class Allocations(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once, until it is freed."""
        if storage in self.known:
            return
        size = self.known[storage] = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self.forget, size)

    def forget(self, size: int) -> None:
        self.alive -= size


def network(config: str, form: str, device: str) -> nn.Module:
    """The segmentor without its preprocessor, in training mode."""
    from mmseg.registry import MODELS

    name = config.format('' if form == 'plain' else '-rfa')
    settings = load_config(str(ROOT / name))
    import_scope(settings)
    model = settings.model
    model.data_preprocessor = None
    model.backbone.init_cfg = model.pretrained = None
    with torch.device(device):
        return MODELS.build(model).train()


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The losses of all heads, on labels that are all zero."""
    features = model.extract_feat(x)
    total = 0
    heads = [model.decode_head]
    heads += [model.auxiliary_head] if model.with_auxiliary_head else []
    for head in heads:
        logits = nn.functional.interpolate(
            head(features), x.shape[2:], mode='bilinear', align_corners=False
        )
        labels = x.new_zeros((len(x), *x.shape[2:]), dtype=torch.long)
        total = total + nn.functional.cross_entropy(logits, labels)
    return total


def step(config: str, form: str, device: str, batch: int, size: int) -> dict:
    """Bytes of one training step: kept for backward, and at its peak."""
    found = {}
    no_data = nullcontext() if device == 'meta' else FakeTensorMode()
    named = nullcontext() if form == 'plain' else use_backend(form)
    with no_data, named:
        model = network(config, form, device)
        x = torch.empty(batch, 3, size, size, device=device)
        counted = Allocations()
        with counted:
            loss = loss_of(model, x)
            # What is alive now is what backward needs, and the loss.
            found['kept'] = counted.alive
            loss.backward()
        found['peak'] = counted.peak
        owned = [*model.parameters(), *model.buffers()]
        weights = sum(t.numel() * t.element_size() for t in owned)
        found['peak'] += weights
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, default=512)
    parser.add_argument('--out', type=Path, help='results, without ending')
    args = parser.parse_args()
    cases = []
    for device, forms in FORMS.items():
        for name, config in CONFIGS.items():
            found = {
                form: step(config, form, device, args.batch, args.size)
                for form in forms
            }
            for form, figures in found.items():
                plain = found['plain']
                ratios = {k: v / plain[k] for k, v in figures.items()}
                case = dict(network=name, device=device, form=form)
                cases.append(case | dict(bytes=figures, ratios=ratios))
                print(*row(cases[-1]), flush=True)
    if args.out:
        about = machine()
        results = dict(machine=about, batch=args.batch, size=args.size)
        lines = [
            '# Memory of a training step',
            '',
            f'Batch {args.batch} at {args.size}x{args.size}, float32; ratios '
            'are to the plain network. Tensors are counted: a library has its '
            'own workspace beside them. Device `meta` stands for every one '
            f'but a CPU. torch {about["torch"]}, {about["date"]}.',
            '',
        ]
        head = ['network', 'device', 'form', 'kept, MiB', 'peak, MiB']
        rows = [row(case) for case in cases]
        lines += table([*head, 'kept, ratio', 'peak, ratio'], rows)
        write(results | dict(cases=cases), args.out, lines)


def row(case: dict) -> list[str]:
    """A case as a row of the table."""
    sizes, ratios = case['bytes'], case['ratios']
    return [
        *(case[key] for key in ('network', 'device', 'form')),
        *(f'{sizes[key] / 2**20:.0f}' for key in ('kept', 'peak')),
        *(f'{ratios[key]:.2f}' for key in ('kept', 'peak')),
    ]


if __name__ == '__main__':
    main()
