"""Put segmentation predictions beside the truth.

Takes the file that ``tools/test.py --out`` writes; one picture per image:
the photograph, the truth, the prediction.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from mmrfa.checkpoints.reading import load_predictions
from mmrfa.checkpoints.writing import (
    check_folder,
    check_target,
    written_aside,
)
from mmrfa.deploy.sources import names_of
from mmrfa.engine.cli import add_config_arguments, parse_args, run_tool
from mmrfa.engine.config import load_config
from mmrfa.errors import InputError


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument('predictions', help='file of tools/test.py --out')
    parser.add_argument('out', help='folder to write')
    parser.add_argument(
        '--num', type=int, default=12, help='how many images (default: 12)'
    )
    args = parse_args(parser, argv)
    if args.num < 1:
        raise InputError(f'--num: expected 1 or more, got {args.num}')
    check_folder(Path(args.out))
    classes, palette = names_and_colours(
        load_config(args.config, args.cfg_options)
    )
    results = read_predictions(args.predictions)[: args.num]
    Path(args.out).mkdir(parents=True, exist_ok=True)
    # An image that stands there twice gives the same picture twice.
    images = list(dict.fromkeys(Path(str(r['img_path'])) for r in results))
    names = dict(zip(images, names_of(images)))
    for result in results:
        image = Path(str(result['img_path']))
        target = Path(args.out) / f'{names[image]}.png'
        check_target(image, target)
        draw(result, classes, palette, target)
    print(f'{len(results)} pictures: {args.out}')


def names_and_colours(config) -> tuple[list[str], list[list[int]]]:
    """Class names and colours of the test data.

    Args:
        config (Config): of the run.

    Returns:
        tuple: one name and one RGB colour per class.

    Raises:
        InputError: the data set has none, so it is not for segmentation.
    """
    from mmengine.registry import DATASETS, init_default_scope

    init_default_scope(config.get('default_scope', 'mmseg'))
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    kind = dataset.get('type')
    meta = dict(getattr(DATASETS.get(str(kind)), 'METAINFO', {}))
    meta.update(dataset.get('metainfo', {}))
    if not meta.get('classes') or not meta.get('palette'):
        raise InputError(
            'test data: expected classes and a palette, as segmentation has '
            f'them, got {kind} without'
        )
    return meta['classes'], meta['palette']


def read_predictions(path: str) -> list[dict]:
    """Read what ``tools/test.py --out`` wrote.

    Args:
        path (str): the file; no code in it is run.

    Returns:
        list[dict]: per image ``img_path``, ``gt_sem_seg``, ``pred_sem_seg``.

    Raises:
        InputError: no such file, or not of a segmentation test.
    """
    results = load_predictions(path)
    wanted = {'img_path', 'gt_sem_seg', 'pred_sem_seg'}
    if not isinstance(results, list) or not all(
        isinstance(r, dict) and wanted <= r.keys() for r in results
    ):
        raise InputError(
            'predictions: expected those of a segmentation test with truth, '
            f'got others in {path}'
        )
    return results


def labels_of(result: dict, key: str) -> np.ndarray:
    """Take the labels out of a result.

    Args:
        result (dict): one of :func:`read_predictions`.
        key (str): ``gt_sem_seg`` or ``pred_sem_seg``.

    Returns:
        ndarray: (H, W), 0 to 255.

    Raises:
        InputError: something else is there.
    """
    part = result[key]
    data = part.get('data') if isinstance(part, dict) else part
    labels = np.asarray(data).reshape(-1, *np.shape(data)[-2:])
    if (
        labels.dtype.kind not in 'iu'
        or labels.ndim != 3
        or len(labels) != 1
        or labels.min(initial=0) < 0
        or labels.max(initial=0) > 255
    ):
        raise InputError(
            f'predictions: expected {key} of labels from 0 to 255 for each '
            f'pixel of {result["img_path"]}, got others'
        )
    return labels[0]


def draw(
    result: dict, classes: list[str], palette: list[list[int]], out: Path
) -> None:
    """Draw photograph, truth and prediction side by side.

    Args:
        result (dict): one of :func:`read_predictions`.
        classes (list[str]): names.
        palette (list[list[int]]): RGB colours, 0 to 255.
        out (Path): picture to write.

    Raises:
        InputError: the photograph is not there, or none; or labels that are
            none.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch
    from PIL import Image

    truth, prediction = (
        labels_of(result, key) for key in ('gt_sem_seg', 'pred_sem_seg')
    )
    colours = np.full((256, 3), 255, np.uint8)  # white: ignored
    colours[: len(palette)] = palette
    try:
        if not Path(str(result['img_path'])).is_file():
            raise FileNotFoundError('no file')
        image = Image.open(result['img_path']).convert('RGB')
    except OSError as error:
        raise InputError(
            f'predictions: expected the image {result["img_path"]}, got: '
            f'{error}'
        ) from error
    panels = {
        'image': np.asarray(image),
        'truth': colours[truth],
        'prediction': colours[prediction],
    }
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.6))
    for axis, (title, picture) in zip(axes, panels.items()):
        axis.imshow(picture, interpolation='nearest')
        axis.set_title(title)
        axis.axis('off')
    seen = [k for k in np.union1d(truth, prediction) if k < len(classes)]
    figure.legend(
        handles=[
            Patch(color=np.divide(palette[k], 255), label=classes[k])
            for k in seen
        ],
        ncols=6,
        loc='lower center',
        frameon=False,
        fontsize='small',
    )
    figure.subplots_adjust(0.01, 0.12, 0.99, 0.9, wspace=0.03)
    with written_aside(out) as part:
        figure.savefig(part, dpi=100)
    plt.close(figure)


if __name__ == '__main__':
    sys.exit(run_tool(main))
