"""Which part of a network becomes a program, and where that plugs in.

The rest, which loops over boxes or sizes, stays OpenMMLab's Python: sliding
windows, decoding and suppression of boxes, the way back to the image's size.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from mmrfa.errors import InputError

# From images (N, 3, H, W) to tensors.
Program = Callable[[Tensor], Sequence[Tensor]]


class Part(NamedTuple):
    """The part of a network that is exported.

    Attributes:
        task (str): segmentation, detection, classification, or features.
        module (nn.Module): from normalised images (N, 3, H, W) to a tuple of
            tensors.
        outputs (list[str]): their names.
        after (str): what they are, and what has to be done with them.
        plug (Callable | None): ``plug(program)`` makes the network use a
            program in place of this part. None: the network needs more of
            its weights than the part holds.
    """

    task: str
    module: nn.Module
    outputs: list[str]
    after: str
    plug: Callable[[Program], None] | None


class _Flat(nn.Module):
    """A function of a network, as a module that gives a tuple of tensors."""

    def __init__(self, network: nn.Module, run: Callable) -> None:
        super().__init__()
        self.network, self.run = network, run
        self.training = network.training  # exporters ask

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat(self.run(images)))


def flat(value: Any) -> list[Tensor]:
    """The tensors in nested lists and tuples, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in flat(part)]


def like(structure: Any, tensors: Sequence[Tensor]) -> Any:
    """Nest tensors as others are nested.

    Args:
        structure (Any): nested lists and tuples with as many leaves.
        tensors (Sequence[Tensor]): what takes the place of the leaves.
    """
    rest = iter(tensors)

    def build(node: Any) -> Any:
        if isinstance(node, list | tuple):
            return type(node)(build(part) for part in node)
        return next(rest)

    return build(structure)


def part_of(model: nn.Module) -> Part:
    """Choose what of a network is exported.

    Args:
        model (nn.Module): of a config.

    Returns:
        Part: of a segmentor everything up to the logits of every pixel; of a
        one-stage detector everything up to the raw outputs of its head; of a
        classifier everything up to the logits; of other detectors the
        backbone and the neck, whose features the rest would take.

    Raises:
        InputError: a network of another kind.
    """
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if 'EncoderDecoder' in kinds:
        return _segmentor(model)
    if 'SingleStageDetector' in kinds:
        return _one_stage(model)
    if 'ImageClassifier' in kinds:
        return _classifier(model)
    if 'BaseDetector' in kinds:
        return _features(model)
    raise InputError(
        'expected a segmentor (EncoderDecoder), a detector or an image '
        f'classifier, got {type(model).__name__}'
    )


def _segmentor(model: nn.Module) -> Part:
    def run(images: Tensor) -> Tensor:
        size = images.shape[2:]
        metas = [dict(img_shape=size, pad_shape=size, ori_shape=size)]
        return model.encode_decode(images, metas)

    def plug(program: Program) -> None:
        model.encode_decode = lambda images, metas: program(images)[0]

    after = (
        'logits (N, classes, H, W) at the size of the images; their argmax '
        'over axis 1 is the class. Cut off the padding and resize bilinearly '
        'before the argmax for a mask of the size of the photograph'
    )
    if model.out_channels == 1:
        after = (
            'logits (N, 1, H, W) at the size of the images; the class is 1 '
            f'where their sigmoid is above {model.decode_head.threshold}'
        )
    return Part('segmentation', _Flat(model, run), ['logits'], after, plug)


def _one_stage(model: nn.Module) -> Part:
    structure, names = _levels(model)

    def plug(program: Program) -> None:
        # The images stand for the features; the head passes them on.
        model.extract_feat = lambda images: images
        model.bbox_head.forward = lambda images: like(
            structure, program(images)
        )

    return Part(
        'detection',
        _Flat(model, lambda images: model(images, mode='tensor')),
        names,
        f'raw outputs of {type(model.bbox_head).__name__}, by kind and level '
        'of the pyramid; decoding into boxes and their suppression follow '
        '(tools/predict.py does that with predict_by_feat of the head)',
        plug,
    )


def _levels(model: nn.Module) -> tuple[Any, list[str]]:
    """How the outputs of a head are nested, and a name for each."""
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        outputs = model(torch.zeros(1, 3, 128, 128).to(device), mode='tensor')
    structure = like(outputs, [0] * len(flat(outputs)))
    names = []

    def name(node: Any, place: str) -> None:
        if isinstance(node, list | tuple):
            for i, part in enumerate(node):
                name(part, f'{place}_{i}')
        else:
            names.append(place)

    name(structure, 'out')
    return structure, names


def _classifier(model: nn.Module) -> Part:
    def plug(program: Program) -> None:
        model.extract_feat = lambda images, *_, **__: images
        model.head.forward = lambda images: program(images)[0]

    return Part(
        'classification',
        _Flat(model, lambda images: model(images, mode='tensor')),
        ['logits'],
        'logits (N, classes); their softmax over axis 1 is the score of a '
        'class',
        plug,
    )


def _features(model: nn.Module) -> Part:
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        features = model.extract_feat(torch.zeros(1, 3, 128, 128).to(device))
    return Part(
        'features',
        _Flat(model, model.extract_feat),
        [f'features_{i}' for i in range(len(flat(features)))],
        f'features of backbone and neck; the heads of {type(model).__name__}, '
        'which choose boxes and cut them out, are not in this file',
        None,
    )
