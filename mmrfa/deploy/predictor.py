"""Images through a config's test pipeline and its network, in batches."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from mmrfa.deploy.network import test_dataset
from mmrfa.deploy.sources import Frame
from mmrfa.engine.naming import naming
from mmrfa.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import nn

PIPELINE = 'test_dataloader.dataset.pipeline'


class Prediction(NamedTuple):
    """What a network says of an image.

    Attributes:
        frame (Frame): where the image came from.
        image (ndarray): (H, W, 3) uint8, BGR, as it came.
        sample (BaseDataElement): OpenMMLab's data sample, on the CPU, in
            pixels of the image.
    """

    frame: Frame
    image: 'np.ndarray'
    sample: Any


class Predictor:
    """Runs a network as ``tools/test.py`` does, on images without truth.

    The pipeline of the test data (less the loading of annotations) prepares
    an image; resizing, sliding windows, suppression of boxes and the way
    back to the size of the image are those of the config's network.

    Args:
        config (Config): of the run.
        model (nn.Module): its network, filled, on the device to use.

    Raises:
        InputError: the config has no pipeline for test images, or one that
            cannot be built.
    """

    def __init__(self, config: 'Config', model: 'nn.Module') -> None:
        from mmengine.dataset import Compose

        steps = [
            step
            for step in test_dataset(config).get('pipeline') or []
            if 'Annotations' not in str(step['type'])
        ]
        if not steps or 'LoadImageFromFile' not in str(steps[0]['type']):
            raise InputError(
                f'config {config.filename}: expected a pipeline of the test '
                'data that begins with LoadImageFromFile, found none'
            )
        import mmrfa.datasets  # noqa: F401, the backend below

        # Names the file that is not a whole image.
        load = dict(steps[0], backend_args=dict(backend='checked'))
        with naming(config, PIPELINE):
            self.load, self.prepare = Compose([load]), Compose(steps[1:])
        self.model, self.config = model, config
        self.places = {
            id(module): f'model.{name}'.rstrip('.')
            for name, module in model.named_modules()
        }

    def __call__(
        self,
        frames: Iterable[Frame],
        batch_size: int = 1,
        unreadable: list[InputError] | None = None,
    ) -> Iterator[Prediction]:
        """Predict, in the order of the images.

        Only neighbours that come out of the pipeline at one size share a
        batch, so that its size changes nothing in the result.

        Args:
            frames (Iterable[Frame]): the images.
            batch_size (int): at most so many at once. Defaults to 1.
            unreadable (list[InputError] | None): takes what is wrong with
                files that are no whole images; they are left out. None: the
                first one is raised. Defaults to None.

        Yields:
            Prediction: one an image.

        Raises:
            InputError: the pipeline or the network fails on an image.
        """
        batch: list[tuple] = []
        for frame in frames:
            try:
                loaded = self._load(frame)
            except InputError as error:
                if unreadable is None:
                    raise
                unreadable.append(error)
                continue
            image, data = self._prepare(frame, loaded)
            full = len(batch) == batch_size
            if batch and (full or _size(batch[-1][2]) != _size(data)):
                yield from self._run(batch)
                batch = []
            batch.append((frame, image, data))
        if batch:
            yield from self._run(batch)

    def read(self, frame: Frame) -> tuple['np.ndarray', dict]:
        """Read an image and prepare it.

        Args:
            frame (Frame): the image.

        Returns:
            tuple[ndarray, dict]: the image as it came, and what the pipeline
            makes of it (``inputs`` and ``data_samples``).

        Raises:
            InputError: not a whole image, or a pipeline that fails on it.
        """
        return self._prepare(frame, self._load(frame))

    def _load(self, frame: Frame) -> dict:
        data = dict(img_path=frame.file, img_id=0)
        if frame.pixels is not None:
            size = frame.pixels.shape[:2]
            return dict(data, img=frame.pixels, img_shape=size, ori_shape=size)
        with naming(self.config, PIPELINE, f'fails on {frame.file}'):
            loaded = self.load(data)
        if loaded is None:  # with ignore_empty
            raise InputError(f'{frame.file}: expected an image, got none')
        return loaded

    def _prepare(self, frame: Frame, data: dict) -> tuple['np.ndarray', dict]:
        image = data['img']
        with naming(self.config, PIPELINE, f'fails on {frame.file}'):
            return image, self.prepare(data)

    def _run(self, batch: list[tuple]) -> Iterator[Prediction]:
        import torch
        from mmengine.dataset import pseudo_collate

        what = f'fails on {batch[0][0].file}'
        with naming(self.config, 'model', what, self.places), torch.no_grad():
            samples = self.model.test_step(
                pseudo_collate([data for *_, data in batch])
            )
        for (frame, image, _), sample in zip(batch, samples):
            yield Prediction(frame, image, sample.cpu())


def as_seen(data: dict, size: tuple[int, int]) -> 'np.ndarray':
    """An image as the network sees it.

    Args:
        data (dict): of :meth:`Predictor.read`.
        size (tuple[int, int]): height and width of the network's input.

    Returns:
        ndarray: (H, W, 3) uint8, RGB; what is padded is black.
    """
    import numpy as np

    pixels = data['inputs'].flip(0).permute(1, 2, 0).numpy()
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[: len(pixels), : pixels.shape[1]] = pixels
    return canvas


def way(data: dict, image: 'np.ndarray') -> tuple[tuple, tuple]:
    """Where a pixel of an image lies in what the network sees.

    Args:
        data (dict): of :meth:`Predictor.read`, of a pipeline that does not
            crop.
        image (ndarray): likewise.

    Returns:
        tuple[tuple, tuple]: factors and then summands of x and y.
    """
    # What a step of mmyolo's adds around the image.
    around = data['data_samples'].metainfo.get('pad_param')
    top, bottom, left, right = (0, 0, 0, 0) if around is None else around
    height, width = data['inputs'].shape[1:]
    scale = (
        (width - left - right) / image.shape[1],
        (height - top - bottom) / image.shape[0],
    )
    return scale, (left, top)


def _size(data: dict) -> tuple[int, ...]:
    return tuple(data['inputs'].shape)
