"""What is written of predictions: overlays, masks, boxes, labels."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from mmrfa.checkpoints.writing import check_folder, written_aside
from mmrfa.deploy.predictor import Prediction
from mmrfa.deploy.sources import Source
from mmrfa.engine.naming import naming
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

# By scope: what draws its predictions.
VISUALIZERS = {
    'mmseg': 'mmseg.SegLocalVisualizer',
    'mmdet': 'mmdet.DetLocalVisualizer',
    'mmyolo': 'mmdet.DetLocalVisualizer',
    'mmpretrain': 'mmpretrain.UniversalVisualizer',
}


class Outputs:
    """Writes predictions into a folder; a context manager.

    - ``overlays/NAME.jpg``; of a video one ``NAME.mp4``
    - ``masks/NAME.png`` of a segmentation: pixels are class indices, with
      the colours of the classes as palette
    - ``predictions.json`` of a detection, in COCO's form (``images``,
      ``categories``, ``annotations`` with ``score``; category ids are class
      indices, boxes are x, y, width, height in pixels); of a classification
      a list with ``file``, ``label``, ``class`` and ``score``

    Every file is whole or not there; the JSON and the video appear when the
    ``with`` block ends well.

    Args:
        folder (str): to write to, made as needed.
        config (Config): of the run.
        meta (dict): ``classes`` and ``palette`` of the network.
        source (Source): where the images come from.
        score (float): boxes below it are not drawn; the JSON has all.

    Raises:
        InputError: the folder cannot be written to, or holds an image or
            video to read where one would be written; the scope has no
            predictions to draw, or the classes have no names.
    """

    def __init__(
        self,
        folder: str,
        config: 'Config',
        meta: dict,
        source: Source,
        score: float,
    ) -> None:
        from mmengine.registry import VISUALIZERS as REGISTRY

        self.folder, self.source, self.score = Path(folder), source, score
        check_folder(self.folder)
        self._check_apart()
        self.config, self.scope = config, config.get('default_scope')
        if self.scope not in VISUALIZERS:
            raise InputError(
                f'config {config.filename}: expected default_scope '
                f'{", ".join(VISUALIZERS)}, got {self.scope}'
            )
        if self.scope == 'mmyolo':  # its boxes are those of mmdet
            self.scope = 'mmdet'
        self.classes = list(meta.get('classes') or [])
        if not self.classes:
            raise InputError(
                f'config {config.filename}: expected the names of the classes '
                'in the checkpoint, or of the test data in the config, found '
                'none'
            )
        if self.scope == 'mmseg' and len(self.classes) > 256:
            raise InputError(
                f'config {config.filename}: expected 256 classes at most, as '
                f'masks are of eight bits, got {len(self.classes)}'
            )
        self.palette = _palette(meta.get('palette'), len(self.classes))
        self.drawer = REGISTRY.build(
            dict(type=VISUALIZERS[self.scope], name='predictions')
        )
        self.drawer.dataset_meta = dict(
            classes=self.classes, palette=self.palette
        )
        self.images: list[dict] = []
        self.found: list[dict] = []
        self.video = self.aside = self.part = None

    def _check_apart(self) -> None:
        """What is looked at must not be replaced by what is drawn of it."""
        if self.source.video is not None:
            targets = [self.folder / f'{self.source.video}.mp4']
        else:
            targets = [
                self.folder / kind / f'{frame.name}{suffix}'
                for frame in self.source
                for kind, suffix in (('overlays', '.jpg'), ('masks', '.png'))
            ]
        read = set(map(os.path.realpath, self.source.files))
        for target in targets:
            if os.path.realpath(target) in read:
                raise InputError(
                    f'--out: expected a folder apart from the input, got '
                    f'{self.folder}, where {target} would be replaced'
                )

    def __enter__(self) -> 'Outputs':
        return self

    def __exit__(
        self,
        kind: type | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.video is not None:
            self.video.release()
            if kind is not None:
                self.aside.__exit__(kind, error, trace)
            else:
                with self.aside:
                    self._check_video()
        if kind is None and self.scope != 'mmseg':
            with written_aside(self.folder / 'predictions.json') as path:
                path.write_text(json.dumps(self._json(), indent=1))

    def _check_video(self) -> None:
        """OpenCV does not say that a disk was full."""
        import cv2

        written = cv2.VideoCapture(str(self.part))
        frames = int(written.get(cv2.CAP_PROP_FRAME_COUNT))
        if frames < len(self.images):
            raise InputError(
                f'{self.folder / self.source.video}.mp4: expected '
                f'{len(self.images)} frames in it, got {frames}; no space for '
                'the video?'
            )

    def _json(self) -> dict | list:
        if self.scope == 'mmpretrain':
            return self.found
        categories = [
            dict(id=i, name=name) for i, name in enumerate(self.classes)
        ]
        return dict(
            images=self.images, categories=categories, annotations=self.found
        )

    def write(self, prediction: Prediction) -> None:
        """Write what there is of one image.

        Args:
            prediction (Prediction): of the network.

        Raises:
            InputError: it cannot be drawn, such as on a single pixel.
        """
        frame, image, sample = prediction
        with naming(self.config, 'visualizer', f'cannot draw {frame.file}'):
            picture = self.overlay(prediction)
        self.images.append(
            dict(
                id=len(self.images),
                file_name=frame.file,
                height=image.shape[0],
                width=image.shape[1],
            )
        )
        if self.scope == 'mmseg':
            self._write_mask(frame.name, sample)
        elif self.scope == 'mmdet':
            self._add_boxes(sample.pred_instances)
        else:
            self._add_label(frame.file, sample)
        self._write_overlay(frame.name, picture)

    def overlay(self, prediction: Prediction) -> np.ndarray:
        """Draw a prediction on its image; (H, W, 3) uint8, RGB."""
        image = np.ascontiguousarray(prediction.image[..., ::-1])
        sample = prediction.sample
        if self.scope == 'mmpretrain':
            return self.drawer.visualize_cls(image, sample, draw_gt=False)
        options = dict(draw_gt=False)
        if self.scope == 'mmdet':
            options['pred_score_thr'] = self.score
        else:
            self.drawer.alpha = 0.6
        self.drawer.add_datasample('', image, sample, **options)
        return self.drawer.get_image()

    def _write_mask(self, name: str, sample) -> None:
        from PIL import Image

        indices = sample.pred_sem_seg.data.squeeze(0).numpy()
        mask = Image.fromarray(indices.astype(np.uint8))
        mask.putpalette(np.uint8(self.palette).tobytes())
        with written_aside(self.folder / 'masks' / f'{name}.png') as path:
            mask.save(path)

    def _add_boxes(self, found) -> None:
        for (x1, y1, x2, y2), label, score in zip(
            found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist()
        ):
            width, height = x2 - x1, y2 - y1
            self.found.append(
                dict(
                    id=len(self.found) + 1,
                    image_id=self.images[-1]['id'],
                    category_id=label,
                    bbox=[x1, y1, width, height],
                    area=width * height,
                    iscrowd=0,
                    score=score,
                )
            )

    def _add_label(self, file: str, sample) -> None:
        label = int(sample.pred_label)
        score = float(sample.pred_score[label])
        entry = dict(label=label, score=score)
        self.found.append(
            dict(file=file, **entry, **{'class': self.classes[label]})
        )

    def _write_overlay(self, name: str, picture: np.ndarray) -> None:
        from PIL import Image

        if self.source.video is None:
            file = self.folder / 'overlays' / f'{name}.jpg'
            with written_aside(file) as path:
                Image.fromarray(picture).save(path, quality=90)
            return
        import cv2

        if self.video is None:
            file = self.folder / f'{self.source.video}.mp4'
            self.aside = ExitStack()
            self.part = self.aside.enter_context(written_aside(file))
            self.video = cv2.VideoWriter(
                str(self.part),
                cv2.VideoWriter_fourcc(*'mp4v'),
                self.source.rate,
                picture.shape[1::-1],
            )
            if not self.video.isOpened():
                raise InputError(f'{file}: OpenCV cannot write a video here')
        self.video.write(picture[..., ::-1])


def _palette(colours: object, count: int) -> list[tuple[int, int, int]]:
    """One RGB colour a class, of the golden ratio's hues if none is known."""
    import colorsys

    if isinstance(colours, list | tuple) and len(colours) >= count:
        return [tuple(map(int, colour)) for colour in colours]
    hues = (i * 0.618034 % 1 for i in range(count))
    every = (colorsys.hsv_to_rgb(hue, 0.75, 0.95) for hue in hues)
    return [tuple(round(255 * part) for part in colour) for colour in every]
