"""Draw which places of an image speak for a class: class activation maps.

Grad-CAM (Captum, pip install "mmrfa[cam]") on the last features of the
backbone. Of a segmentor the pixels that it gives to a class are explained, of
a classifier the score of a class, of a detector of two stages or a YOLO the
boxes that it finds. A second network can be drawn below, for instance the
plain twin.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

try:
    from mmrfa.checkpoints.writing import check_folder, written_aside
    from mmrfa.deploy.cam import Boxes, Cam
    from mmrfa.deploy.exported import need
    from mmrfa.deploy.network import checked_device, network_of
    from mmrfa.deploy.predictor import Predictor, as_seen, way
    from mmrfa.deploy.sources import Source
    from mmrfa.engine.cli import (
        add_config_arguments,
        add_trust,
        parse_args,
        run_tool,
    )
    from mmrfa.engine.config import load_config
    from mmrfa.errors import InputError
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmrfa (README.md), or use .venv/bin')

MOST = 3  # classes, where none are named


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='checkpoint, or "none" for random weights'
    )
    parser.add_argument('image', help='image file')
    parser.add_argument(
        '--out', required=True, metavar='FILE', help='picture to write, .png'
    )
    parser.add_argument(
        '--beside',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a second network, of the same classes; of a segmentor it '
        'explains the pixels that the first one finds',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help=f'classes to explain (default: the {MOST} that the first network '
        'finds most of)',
    )
    parser.add_argument(
        '--layer',
        metavar='NAME',
        help='module whose output is weighed, such as backbone.layer3 '
        '(default: the one with the last features of the backbone)',
    )
    parser.add_argument(
        '--score',
        type=float,
        default=0.3,
        help='boxes count from this score on (default: 0.3)',
    )
    parser.add_argument('--device', help='cpu, cuda (default: a GPU if any)')
    add_trust(parser)
    args = parse_args(parser, argv)
    need('captum', 'cam')
    target = Path(args.out)
    if target.suffix != '.png' or target.is_dir():
        raise InputError(f'--out: expected a file FILE.png, got {target}')
    check_folder(target.parent)
    source = Source(args.image)
    if source.count != 1 or source.video is not None:
        raise InputError(f'image: expected one image, got {args.image}')

    device = checked_device(args.device)
    config = load_config(args.config, args.cfg_options)
    options = device, args.layer, args.score
    networks = [look(config, args.checkpoint, source, *options)]
    if args.beside:
        config = load_config(args.beside[0])
        networks.append(look(config, args.beside[1], source, *options))
        told = [(network.classes, network.cam.size) for network in networks]
        if told[0] != told[1]:
            (first, size), (other, another) = told
            raise InputError(
                f'--beside: expected a network of the same {len(first)} '
                f'classes that sees the image as {size}, got {len(other)} '
                f'classes and {another}'
            )
    labels = choose(networks[0], args.classes)
    with written_aside(target) as path:
        draw(networks, labels, path)
    names = (networks[0].classes[label] for label in labels)
    print(f'{", ".join(names)}: {target}')


class Network(NamedTuple):
    """A network that has seen the image.

    Attributes:
        title (str): its config and weights.
        classes (list[str]): names.
        canvas (ndarray): what it sees, (H, W, 3) uint8 RGB.
        way (tuple[tuple, tuple]): to it from the file.
        cam (Cam): makes the maps.
    """

    title: str
    classes: list[str]
    canvas: np.ndarray
    way: tuple[tuple, tuple]
    cam: Cam


def look(
    config, checkpoint: str, source: Source, device, layer, score
) -> Network:
    """Show the image to a network.

    Args:
        config (Config): of the network.
        checkpoint (str): file, or 'none'.
        source (Source): one image.
        device (device): where to run.
        layer (str | None): of ``--layer``.
        score (float): of ``--score``.

    Raises:
        InputError: something in the config, the file or the layer, or classes
            without names.
    """
    model = network_of(config, checkpoint).to(device)
    (frame,) = source
    image, data = Predictor(config, model).read(frame)
    cam = Cam(model, data, layer, score)
    classes = list(model.dataset_meta.get('classes') or [])
    if len(classes) <= max(cam.found, default=0):
        raise InputError(
            f'config {config.filename}: expected the names of the classes in '
            f'the checkpoint or of the test data, found {len(classes)}'
        )
    return Network(
        f'{Path(config.filename).stem}\n{Path(checkpoint).name}, {cam.layer}',
        classes,
        as_seen(data, cam.size),
        way(data, image),
        cam,
    )


def choose(network: Network, names: list[str] | None) -> list[int]:
    """Choose the classes to explain.

    Args:
        network (Network): the first one.
        names (list[str] | None): of ``--classes``.

    Returns:
        list[int]: their numbers.

    Raises:
        InputError: no such class, or none that the network finds.
    """
    found = network.cam.found
    if names is None:
        if not found:
            raise InputError('--score: expected boxes from it on, found none')
        return sorted(found, key=found.get, reverse=True)[:MOST]
    for name in names:
        if name not in network.classes:
            raise InputError(
                f'--classes: expected some of {", ".join(network.classes)}, '
                f'got {name}'
            )
        if network.classes.index(name) not in found:
            raise InputError(
                f'--classes: expected classes that the network finds in the '
                f'image, got {name}'
            )
    return [network.classes.index(name) for name in names]


def draw(networks: list[Network], labels: list[int], path: Path) -> None:
    """Draw a row of maps for each network.

    Args:
        networks (list[Network]): the first one, and others beside it.
        labels (list[int]): classes.
        path (Path): file to write.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    height, width = networks[0].canvas.shape[:2]
    columns = len(labels) + 1
    # Inches of a panel: of one area, whatever the shape of the image.
    side = 3.4 * (width / height) ** 0.5, 3.4 * (height / width) ** 0.5
    figure, axes = plt.subplots(
        len(networks),
        columns,
        figsize=(
            columns * side[0] + 0.8,
            len(networks) * (side[1] + 0.5) + 0.3,
        ),
        squeeze=False,
        layout='constrained',
    )
    figure.suptitle(
        'Which places speak for a class (Grad-CAM)', fontsize='medium'
    )
    for row, network in zip(axes, networks):
        row[0].imshow(network.canvas)
        row[0].set_title(network.title, fontsize='small')
        for axis, label in zip(row[1:], labels):
            shown = _draw_map(axis, network, label, networks[0])
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.colorbar(
        shown,
        ax=axes,
        shrink=0.8,
        label='0: nothing, 1: most of this picture',
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_map(axis, network: Network, label: int, first: Network):
    cam = network.cam
    axis.imshow(network.canvas.mean(2), 'gray', vmin=0, vmax=255)
    there = label in cam.found or not isinstance(cam.view, Boxes)
    where = first.cam.pixels(label)
    # Of a class without boxes nothing can be explained.
    heat = cam.map(label, where).numpy() if there else np.zeros(cam.size)
    shown = axis.imshow(heat, 'inferno', vmin=0, vmax=1, alpha=0.6)
    amount = cam.view.said.format(cam.found.get(label, 0))
    axis.set_title(f'{network.classes[label]}, {amount}', fontsize='small')
    if where is not None and not where.all():
        axis.contour(where.cpu().numpy(), [0.5], colors='white', linewidths=1)
    if isinstance(cam.view, Boxes):
        boxes = cam.outputs[cam.outputs.labels == label].bboxes
        scale, shift = network.way
        for x1, y1, x2, y2 in boxes.cpu().numpy() * (2 * scale) + 2 * shift:
            axis.add_patch(_rectangle((x1, y1), x2 - x1, y2 - y1))
    return shown


def _rectangle(corner: tuple[float, float], width: float, height: float):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, fill=False, edgecolor='white')


if __name__ == '__main__':
    sys.exit(run_tool(main))
