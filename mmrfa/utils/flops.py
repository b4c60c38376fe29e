"""Counting parameters and operations, MMEngine's way and the paper's."""

import logging
from functools import partial
from inspect import signature
from math import prod

import torch
from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.ops import use_backend
from mmrfa.utils.paper_tables import paper_table


class Classifier(nn.Module):
    """A backbone with global average pooling and a linear layer.

    Args:
        backbone (nn.Module): returns a list of features, (N, C, H, W) last.
        num_classes (int): outputs of the linear layer.
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone.eval()
        with torch.no_grad():
            channels = backbone(torch.zeros(1, 3, 64, 64))[-1].shape[1]
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (N, 3, H, W); scores (N, num_classes)."""
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def imagenet_network(model: str, conv: str) -> Classifier:
    """Build the network of a row of the paper's ImageNet table.

    Args:
        model (str): 'ResNet-18', 'ResNet-34', ...
        conv (str): 'plain' or an operator.

    Returns:
        Classifier: with 1000 classes and random weights.
    """
    from mmrfa.models import RFAResNet

    operator = None if conv == 'plain' else dict(type=conv)
    depth = int(model.removeprefix('ResNet-'))
    return Classifier(RFAResNet(depth, attention_conv=operator), 1000)


def _shape(value) -> list[int] | None:
    """Read the sizes of a tensor of a traced graph."""
    return value.type().sizes() if value.isCompleteTensor() else None


def _batch_norm(inputs: list, outputs: list) -> int:
    return 4 * prod(_shape(outputs[0]))


def _mean(inputs: list, outputs: list) -> int:
    """Count pooling, not the means over channels or classes."""
    size, out = _shape(inputs[0]), _shape(outputs[0])
    if out[1] != size[1]:
        return 0
    # The taps of a receptive field are AvgPool2d, else AdaptiveAvgPool2d.
    return prod(out) if len(size) == 5 else prod(size) + prod(out)


def _mul(inputs: list, outputs: list) -> int:
    """Count g * a, published as a 1x1 convolution with groups = C."""
    a, b = (_shape(value) or [] for value in inputs[:2])
    gain = len(a) == len(b) == 5 and 1 == a[2] != b[2] and b[3:] == [1, 1]
    return prod(_shape(outputs[0])) if gain else 0


_PUBLISHED = {
    'aten::batch_norm': _batch_norm,
    'aten::mean': _mean,
    'aten::mul': _mul,
}


def count(
    model: nn.Module, shape: tuple[int, int, int], as_published: bool = False
) -> tuple[int, float]:
    """Count the parameters and the forward operations for one image.

    MMEngine counts a multiply-add per weight and position of a convolution
    or linear layer, without bias, 2 per element of an evaluated batch norm,
    4 of bilinear resizing, 1 of adaptive average pooling; nothing else.

    The RFAConv paper's GFLOPs come out to the last digit with 4 per element
    of batch norm, 1 per output of average pooling and 1 per input and output
    of adaptive average pooling, as the package thop has it.

    Args:
        model (nn.Module): put into eval mode; its operators are counted in
            their reference form, whatever faster form runs in practice.
        shape (tuple[int, int, int]): channels, height and width.
        as_published (bool): count as the paper does. Defaults to False.

    Returns:
        tuple[int, float]: parameters, operations. Those of a second stage
        depend on how many proposals the random weights make.

    Raises:
        InputError: the model does not run on an image of this shape.
    """
    from mmengine.analysis import FlopAnalyzer
    from mmengine.structures import BaseDataElement

    model.eval()
    if 'data_samples' in signature(model.forward).parameters:
        # Detectors of two stages ask for the size of the image.
        sizes = dict.fromkeys(('img_shape', 'batch_input_shape'), shape[1:])
        sample = BaseDataElement(metainfo=dict(sizes, scale_factor=(1, 1)))
        model.forward = partial(model.forward, data_samples=[sample])
    # It warns about every kind of operation that counts nothing.
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    with torch.no_grad(), use_backend('reference'):
        analyzer = FlopAnalyzer(model, (torch.zeros(1, *shape),))
        analyzer.unsupported_ops_warnings(False)
        analyzer.uncalled_modules_warnings(False)
        if as_published:
            for kind, handle in _PUBLISHED.items():
                analyzer.set_op_handle(kind, handle)
        try:
            flops = analyzer.total()
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f'{type(model).__name__}: cannot run on an image of '
                f'{shape[1]} x {shape[2]}: {error}'
            ) from error
    return sum(p.numel() for p in model.parameters()), flops


def paper_comparison() -> str:
    """Count every network of the paper's ImageNet table, beside its numbers.

    Returns:
        str: a Markdown table.
    """
    table = paper_table('imagenet')
    lines = [
        '| Network | Conv | Params (M) | published | FLOPs (G) | published |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for row in table.rows:
        network = imagenet_network(row['model'], row['conv'])
        params, flops = count(network, (3, 224, 224), as_published=True)
        cells = (
            row['model'],
            row['conv'],
            table.text('params', params / 1e6),
            table.text('params', row['params']),
            table.text('gflops', flops / 1e9),
            table.text('gflops', row['gflops']),
        )
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)
