"""Class activation maps: which places of an image speak for a class.

Grad-CAM, as Captum computes it.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmrfa.deploy.exported import need
from mmrfa.deploy.parts import Part, flat, part_of
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.structures import InstanceData


class Pixels:
    """A segmentor: its score is the mean logit of the pixels of a class.

    The whole image goes through it at once, without sliding windows.
    """

    said = '{:.0%} of the pixels'

    def __init__(self, model: nn.Module, part: Part) -> None:
        self.module, self.head = part.module, model.decode_head

    def run(self, images: Tensor, samples: list) -> Tensor:
        """Logits of each class, (C, H, W)."""
        logits = self.module(images)[0][0]
        if len(logits) > 1:
            return logits
        # Class 1 is above where its sigmoid exceeds the threshold.
        odds = math.log(self.head.threshold / (1 - self.head.threshold))
        return torch.cat([2 * odds - logits, logits])

    def found(self, logits: Tensor) -> dict[int, float]:
        """Share of the pixels, by class."""
        counts = logits.argmax(0).flatten().bincount().tolist()
        return {i: n / sum(counts) for i, n in enumerate(counts) if n}

    def score(self, logits: Tensor, label: int, where: Tensor) -> Tensor:
        """What speaks for a class in the pixels (H, W) that are True."""
        return logits[label][where].mean()


class Label:
    """A classifier: its score is the logit of a class."""

    said = 'probability {:.2f}'

    def __init__(self, model: nn.Module, part: Part) -> None:
        self.module = part.module

    def run(self, images: Tensor, samples: list) -> Tensor:
        """Logits of each class, (C,)."""
        return self.module(images)[0][0]

    def found(self, logits: Tensor) -> dict[int, float]:
        """Probability by class."""
        return dict(enumerate(logits.softmax(0).tolist()))

    def score(self, logits: Tensor, label: int, where: None) -> Tensor:
        """What speaks for a class."""
        return logits[label]


class Boxes:
    """A detector: its score is the sum of those of the boxes of a class."""

    said = 'boxes: {:.0f}'

    def __init__(self, model: nn.Module, part: Part, least: float) -> None:
        self.model, self.least = model, least

    def run(self, images: Tensor, samples: list) -> 'InstanceData':
        """The boxes that score enough."""
        (sample,) = self.model(images, samples, mode='predict')
        found = sample.pred_instances
        return found[found.scores.detach() >= self.least]

    def found(self, boxes: 'InstanceData') -> dict[int, float]:
        """Number of boxes by class."""
        counts = boxes.labels.bincount().tolist()
        return {i: float(n) for i, n in enumerate(counts) if n}

    def score(self, boxes: 'InstanceData', label: int, where: None) -> Tensor:
        """What speaks for the boxes of a class."""
        total = boxes.scores[boxes.labels == label].sum()
        if not total.requires_grad:
            raise InputError(
                f'{type(self.model).__name__}: expected a head that passes '
                'gradients from its boxes to the features (two stages, YOLO), '
                f'got {type(self.model.bbox_head).__name__}, which cuts them '
                'off'
            )
        return total


class Cam:
    """Class activation maps of a network for one image.

    Args:
        model (nn.Module): filled, in eval mode, on the device to use.
        data (dict): of :meth:`mmrfa.deploy.predictor.Predictor.read`.
        layer (str | None): name of the module whose output, (1, C, h, w), is
            weighed. None: the one that gives the last features of the
            backbone. Defaults to None.
        least (float): boxes of a detector that score less do not count.
            Defaults to 0.3.

    Attributes:
        size (tuple[int, int]): height and width of what the network sees.
        layer (str): name of the module.
        found (dict[int, float]): how much the network finds of each class:
            the share of pixels, the probability, or the number of boxes.
        view (Pixels | Label | Boxes): how its outputs are scored.
        outputs (Tensor | InstanceData): of the network.

    Raises:
        InputError: Captum is missing, or no such module, or one with another
            output.
    """

    def __init__(
        self,
        model: nn.Module,
        data: dict,
        layer: str | None = None,
        least: float = 0.3,
    ) -> None:
        from mmengine.dataset import pseudo_collate

        need('captum.attr', 'cam')
        batch = model.data_preprocessor(pseudo_collate([data]), False)
        self.images, self.samples = batch['inputs'], batch['data_samples']
        self.size = tuple(self.images.shape[2:])
        part = part_of(model)
        kinds = dict(segmentation=Pixels, classification=Label)
        if part.task in kinds:
            self.view = kinds[part.task](model, part)
        else:
            self.view = Boxes(model, part, least)
        modules = dict(model.named_modules())
        if layer is not None and layer not in modules:
            raise InputError(
                f'--layer: expected a module of the network, such as '
                f'backbone.layer4, got {layer}'
            )
        seen: dict[str, Any] = {}

        def look(name: str):
            def hook(module: nn.Module, args: tuple, output: Any) -> None:
                seen[name] = output

            return hook

        hooks = [
            module.register_forward_hook(look(name))
            for name, module in modules.items()
            if name == layer or name.partition('.')[0] == 'backbone'
        ]
        try:
            with torch.no_grad():
                self.outputs = self.view.run(self.images, self.samples)
        finally:
            for hook in hooks:
                hook.remove()
        self.layer = layer or _deepest(seen)
        self.module = modules[self.layer]
        output = seen.get(self.layer)
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise InputError(
                f'--layer: expected a module that gives features (N, C, H, '
                f'W), got {self.layer}'
            )
        self.found = self.view.found(self.outputs)

    def pixels(self, label: int) -> Tensor | None:
        """Where a segmentor sees a class, (H, W) bool; None of others."""
        if not isinstance(self.view, Pixels):
            return None
        return self.outputs.argmax(0) == label

    def map(self, label: int, where: Tensor | None) -> Tensor:
        """Compute the map of a class.

        Args:
            label (int): the class; of a detector one that it finds.
            where (Tensor | None): of a segmentor the pixels to explain,
                (H, W), as of :meth:`pixels`, also of another network.

        Returns:
            Tensor: (H, W) on the CPU, from 0 to 1, which is its largest value
            unless nothing speaks for the class.

        Raises:
            InputError: the class does not depend on the layer, or a detector
                whose head hides that.
        """
        from captum.attr import LayerAttribution, LayerGradCam

        def score(images: Tensor) -> Tensor:
            outputs = self.view.run(images, self.samples)
            return self.view.score(outputs, label, where)[None]

        images = self.images.clone().requires_grad_()
        try:
            found = LayerGradCam(score, self.module).attribute(
                images, relu_attributions=True
            )
        except RuntimeError as error:
            if 'not have been used' not in str(error):
                raise
            raise InputError(
                '--layer: expected a module whose features the score of the '
                f'class comes from, got {self.layer}'
            ) from error
        found = LayerAttribution.interpolate(found, self.size, 'bilinear')
        found = found[0, 0].detach().cpu()
        return found / found.max().clamp(min=torch.finfo(found.dtype).tiny)


def _deepest(seen: dict[str, Any]) -> str:
    """The outermost module that gives the last features of the backbone."""
    wanted = flat(seen['backbone'])[-1]
    # A module ends after those inside it.
    for name, output in reversed(seen.items()):
        if output is wanted:
            return name
    raise InputError(
        '--layer: expected the name of a module, because no module by itself '
        'gives the last features of this backbone'
    )
