"""ONNX in eight bits: static quantisation by the runtime's own tool."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mmrfa.deploy.network import test_dataset
from mmrfa.deploy.predictor import Predictor
from mmrfa.deploy.sources import Source
from mmrfa.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import nn


def calibration(
    config: 'Config', model: 'nn.Module', source: Source
) -> Iterable['np.ndarray']:
    """Images as the network sees them, one at a time.

    Args:
        config (Config): of the run.
        model (nn.Module): its network.
        source (Source): photographs like those that will be looked at.

    Yields:
        ndarray: (1, 3, H, W) float32.
    """
    from mmengine.dataset import pseudo_collate

    predictor = Predictor(config, model)
    for frame in source:
        _, data = predictor.read(frame)
        batch = model.data_preprocessor(pseudo_collate([data]), False)
        yield batch['inputs'].cpu().numpy()


def quantize(
    file: Path, target: Path, name: str, images: Iterable['np.ndarray']
) -> None:
    """Write a network in eight bits.

    Weights per channel, activations by their range over the images;
    convolutions and products run in integers, the rest in float32.

    Args:
        file (Path): .onnx in float32.
        target (Path): .onnx to write, with the same metadata.
        name (str): of the network's input.
        images (Iterable[ndarray]): (N, 3, H, W) each.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        quantize_static,
    )

    class Images(CalibrationDataReader):
        """The images, in the form that the quantiser asks for."""

        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict | None:
            image = next(self.rest, None)
            return None if image is None else {name: image}

    quantize_static(
        file,
        target,
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
    )


def evaluate(config: 'Config', model: 'nn.Module', count: int) -> dict:
    """Score a network as ``tools/test.py`` does, on the first test images.

    Args:
        config (Config): of the run.
        model (nn.Module): its network, or one that a program was plugged in.
        count (int): images at most.

    Returns:
        dict[str, float]: the metrics of the config.

    Raises:
        InputError: the test data is empty.
    """
    import torch
    from mmengine.dataset import pseudo_collate
    from mmengine.evaluator import Evaluator
    from mmengine.registry import DATASETS

    import mmrfa.datasets  # noqa: F401, registers ours

    dataset = DATASETS.build(test_dataset(config))
    evaluator = Evaluator(config.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    count = min(count, len(dataset))
    if not count:
        raise InputError('test data: expected images, found none')
    ids = []
    for i in range(count):
        batch = pseudo_collate([dataset[i]])
        with torch.no_grad():
            samples = model.test_step(batch)
        evaluator.process(samples, batch)
        ids += [sample.get('img_id') for sample in samples]
    for metric in evaluator.metrics:
        # Of COCO's, which count what was not looked at as missed.
        if hasattr(metric, 'img_ids'):
            metric.img_ids = ids
    return evaluator.evaluate(count)
