"""Counting parameters and operations, MMEngine's way and the paper's."""

from functools import cache, partial
from inspect import signature
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmrfa.engine.config import import_scope, load_config
from mmrfa.engine.run import build_model
from mmrfa.errors import InputError


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


@cache
def count_config(
    path: Path, size: int, seen: int | None = None
) -> tuple[int, float]:
    """Count the network of a config of the zoo as the RFAConv paper counts.

    Args:
        path (Path): the config. One of mmpretrain's is counted without that
            package: as the backbone and a linear layer.
        size (int): height and width of the image.
        seen (int | None): count operations as the tools of YOLO do: norms
            behind plain convolutions are folded, the network sees an image
            of this size, and what it takes is multiplied by the ratio of the
            areas. Defaults to None.

    Returns:
        tuple[int, float]: parameters, multiply-adds, see :func:`count`.

    Raises:
        InputError: the model cannot be built.
    """
    net = network(path)
    if seen is None:
        return count(net, (3, size, size), as_published=True)
    params = parameters(net)
    fold_norms(net.eval())
    _, flops = count(net, (3, seen, seen), as_published=True)
    return params, flops * (size / seen) ** 2


def fold_norms(net: nn.Module) -> None:
    """Fold the norms behind plain convolutions.

    Args:
        net (nn.Module): of MMCV's ``ConvModule`` s, in eval mode, changed
            in place.
    """
    from mmcv.cnn import ConvModule

    for layer in list(net.modules()):
        folds = isinstance(layer, ConvModule) and layer.with_norm
        if folds and isinstance(layer.conv, nn.Conv2d):
            layer.conv = fuse_conv_bn_eval(layer.conv, layer.norm)
            setattr(layer, layer.norm_name, nn.Identity())


def network(path: Path, options: dict | None = None) -> nn.Module:
    """Build the network that :func:`count_config` counts.

    Args:
        path (Path): the config.
        options (dict | None): entries that replace those of the config.
    """
    from mmengine.registry import MODELS

    config = load_config(str(path), options)
    if config.get('default_scope') == 'mmpretrain':
        backbone = MODELS.build(config.model.backbone)
        return Classifier(backbone, config.model.head.num_classes)
    import_scope(config)
    return build_model(config)


def parameters(model: nn.Module) -> int:
    """Count the parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


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


def _upsample(inputs: list, outputs: list) -> int:
    return prod(_shape(outputs[0]))


_PUBLISHED = {
    'aten::batch_norm': _batch_norm,
    'aten::mean': _mean,
    'aten::mul': _mul,
    'aten::upsample_nearest2d': _upsample,
}


def count(
    model: nn.Module, shape: tuple[int, int, int], as_published: bool = False
) -> tuple[int, float]:
    """Count the parameters and the forward operations for one image.

    MMEngine counts a multiply-add per weight and position of a convolution
    or linear layer, without bias, 2 per element of an evaluated batch norm,
    4 of bilinear resizing, 1 of adaptive average pooling; nothing else.

    The RFAConv paper's GFLOPs come out to the last digit with 4 per element
    of batch norm, 1 per output of average pooling and of resizing to the
    nearest, and 1 per input and output of adaptive average pooling, as the
    package thop has it.

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
    with torch.no_grad():
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
    return parameters(model), flops
