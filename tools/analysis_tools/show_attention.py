"""Draw what the operators of a network weigh while it sees an image.

One picture a layer. Operators that weigh the taps of every window (RFAConv,
RFCBAMConv, RFCAConv): the taps around marked points, on the image and as
numbers, a map of each tap, and for RFAConv how evenly each window is weighed.
The others: their gates, over the image, the channels or the kernel.
"""

import argparse
import sys
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

try:
    from mmrfa.checkpoints.writing import check_folder, written_aside
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
    from mmrfa.inspection import evenness, inspect
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmrfa (README.md), or use .venv/bin')

COLOURS = ('#e6194b', '#4363d8', '#3cb44b', '#f58231', '#911eb4', '#00bcd4')


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', help='checkpoint, or "none" for random weights'
    )
    parser.add_argument('image', help='image file')
    parser.add_argument(
        '--out', required=True, metavar='FOLDER', help='folder to write to'
    )
    parser.add_argument(
        '--layers',
        nargs='+',
        metavar='NAME',
        help='layers to draw, by name or pattern, as "*.layer4.*" in quotes '
        '(default: all operators)',
    )
    parser.add_argument(
        '--points',
        nargs='+',
        metavar='X,Y',
        help='points to look at, in pixels of the image, six at most '
        '(default: in each third of the width, where taps differ most)',
    )
    parser.add_argument(
        '--channel',
        type=int,
        metavar='C',
        help='one input channel (default: the mean over all)',
    )
    parser.add_argument(
        '--before',
        metavar='CHECKPOINT',
        help='draw above it what is weighed with these weights, in the same '
        'windows and colours; an earlier checkpoint, or "none"',
    )
    parser.add_argument('--device', help='cpu, cuda (default: a GPU if any)')
    add_trust(parser)
    args = parse_args(parser, argv)
    check_folder(Path(args.out))
    source = Source(args.image)
    if source.count != 1 or source.video is not None:
        raise InputError(f'image: expected one image, got {args.image}')
    points = None if args.points is None else read_points(args.points)

    device = checked_device(args.device)
    config = load_config(args.config, args.cfg_options)
    earlier = {}
    if args.before is not None:
        model = network_of(config, args.before).to(device)
        *_, earlier = look(Predictor(config, model), source, args.layers)
    model = network_of(config, args.checkpoint).to(device)
    predictor = Predictor(config, model)
    canvas, way, found = look(predictor, source, args.layers)
    if points is not None:
        if any('Crop' in str(step) for step in predictor.prepare.transforms):
            raise InputError(
                '--points: expected a test pipeline that keeps the whole '
                f'image, that of {args.config} crops it'
            )
        points = [place(point, *way, canvas) for point in points]
    layers = dict(model.named_modules())
    for name, attention in found.items():
        layer = layers[name.partition('@')[0]]
        view = digest(layer, attention, args.channel)
        title = f'{name}: {type(layer).__name__}, {layer.in_channels} channels'
        title += f', weights: {Path(args.checkpoint).name}'
        before = None
        if earlier:
            title += f', before: {Path(args.before).name}'
            before = digest(layer, earlier[name], args.channel)
        if args.channel is not None:
            title += f', channel {args.channel}'
        target = Path(args.out) / f'{name or "layer"}.png'
        with written_aside(target) as path:
            draw(canvas, view, points, title, path, before)
    print(f'{len(found)} pictures: {args.out}')


def read_points(texts: list[str]) -> list[tuple[float, float]]:
    """Read ``X,Y`` pairs.

    Args:
        texts (list[str]): of ``--points``.

    Returns:
        list[tuple[float, float]]: x and y in pixels.

    Raises:
        InputError: another form, or too many to tell apart.
    """
    try:
        points = [tuple(map(float, text.split(','))) for text in texts]
    except ValueError:
        points = [()]
    if any(len(p) != 2 for p in points) or len(points) > len(COLOURS):
        raise InputError(
            f'--points: expected X,Y, {len(COLOURS)} times at most, got '
            f'{" ".join(texts)}'
        )
    return points


def look(
    predictor: Predictor, source: Source, layers: list[str] | None
) -> tuple[np.ndarray, tuple, dict]:
    """Show an image to a network.

    Args:
        predictor (Predictor): with the network.
        source (Source): one image.
        layers (list[str] | None): names or patterns.

    Returns:
        tuple: the image as the network sees it, padding included, (H, W, 3)
        uint8 RGB; the way to it from the file; and what
        :func:`mmrfa.inspect` gives.
    """
    from mmengine.dataset import pseudo_collate

    (frame,) = source
    image, data = predictor.read(frame)
    model = predictor.model
    batch = model.data_preprocessor(pseudo_collate([data]), False)
    found = inspect(
        model,
        batch['inputs'],
        batch['data_samples'],
        mode='tensor',
        layers=layers,
    )
    canvas = as_seen(data, batch['inputs'].shape[2:])
    return canvas, way(data, image), found


def place(
    point: tuple[float, float],
    scale: tuple[float, float],
    shift: tuple[float, float],
    canvas: np.ndarray,
) -> tuple[float, float]:
    """Find a point of the file in what the network sees.

    Args:
        point (tuple[float, float]): x and y, in pixels of the file.
        scale (tuple[float, float]): what became of a pixel.
        shift (tuple[float, float]): what lies left of the image and above.
        canvas (ndarray): (H, W, 3).

    Raises:
        InputError: it lies outside.
    """
    x, y = (v * s + start for v, s, start in zip(point, scale, shift))
    if not (0 <= x < canvas.shape[1] and 0 <= y < canvas.shape[0]):
        raise InputError(
            f'--points: expected points inside the image, got {point[0]:g},'
            f'{point[1]:g}'
        )
    return x, y


class View(NamedTuple):
    """What is drawn of a layer.

    Attributes:
        taps (ndarray | None): weight of each tap, (kh, kw, Ho, Wo), mean
            over the channels.
        spread (ndarray | None): its standard deviation over the channels,
            likewise.
        even (ndarray | None): of a softmax, (Ho, Wo), 1 where all taps count
            alike and 0 where one counts alone; mean over the channels.
        step (tuple[float, float]): from one tap to the next, vertical first,
            as a share of the distance between neighbouring windows.
        pixels (ndarray | None): weight of each input pixel, (H, W), mean
            over the channels.
        channels (ndarray | None): weight of each channel, (C,).
        kernel (ndarray | None): attention of the shape of a weight,
            (O, C / groups, kh, kw).
    """

    taps: np.ndarray | None = None
    spread: np.ndarray | None = None
    even: np.ndarray | None = None
    step: tuple[float, float] = (1.0, 1.0)
    pixels: np.ndarray | None = None
    channels: np.ndarray | None = None
    kernel: np.ndarray | None = None


def digest(layer, attention: dict, channel: int | None) -> View:
    """Bring the attention of a layer into a form that can be drawn.

    Args:
        layer (AttentionConv2d): the operator.
        attention (dict[str, Tensor]): of it, for one image.
        channel (int | None): the one to show; None for all.

    Raises:
        InputError: there is no such channel.
    """
    count = layer.in_channels
    if channel is not None and not 0 <= channel < count:
        raise InputError(
            f'--channel: expected 0 to {count - 1}, got {channel}'
        )
    chosen = slice(None) if channel is None else slice(channel, channel + 1)
    parts = {key: value[0].float().cpu() for key, value in attention.items()}
    view = {}
    if 'weight' in parts:
        view['kernel'] = parts.pop('weight').numpy()
    if 'channels' in parts:
        view['channels'] = parts['channels'].flatten().numpy()
    if not parts:
        return View(**view)
    # (C or 1, ...): a gate that all channels share stands for each.
    weights = prod(parts.values())
    weights = weights.expand(count, *weights.shape[1:])[chosen]
    if weights.dim() == 3:
        if set(parts) != {'channels'}:
            view['pixels'] = weights.mean(0).numpy()
        return View(**view)
    grid = weights.unflatten(1, layer.kernel_size)
    view['taps'] = grid.mean(0).numpy()
    view['spread'] = grid.std(0, correction=0).numpy()
    view['step'] = tuple(
        dilation / stride
        for dilation, stride in zip(layer.dilation, layer.stride)
    )
    total = weights.sum(1)
    if total.allclose(total.new_ones(()), atol=1e-4):  # a softmax
        view['even'] = evenness(weights[None])[0].mean(0).numpy()
    return View(**view)


def windows(
    view: View, points: list[tuple[float, float]] | None, canvas: np.ndarray
) -> list[tuple[int, int]]:
    """The windows to look at, as rows and columns of the output.

    Args:
        view (View): with taps.
        points (list[tuple[float, float]] | None): x and y on the canvas.
            None chooses, in each third of the width, the window whose taps
            differ most.
        canvas (ndarray): (H, W, 3).
    """
    height, width = view.taps.shape[2:]
    if points is not None:
        return [
            (
                int(y * height / canvas.shape[0]),
                int(x * width / canvas.shape[1]),
            )
            for x, y in points
        ]
    range_of = view.taps.max((0, 1)) - view.taps.min((0, 1))
    found = []
    for columns in np.array_split(np.arange(width), min(3, width)):
        place = range_of[:, columns].argmax()
        row, column = np.unravel_index(place, (height, len(columns)))
        found.append((int(row), int(columns[column])))
    return found


def draw(
    canvas: np.ndarray,
    view: View,
    points: list[tuple[float, float]] | None,
    title: str,
    path: Path,
    before: View | None = None,
) -> None:
    """Draw the picture of a layer.

    Args:
        canvas (ndarray): what the network sees, (H, W, 3) uint8.
        view (View): what the layer makes of it.
        points (list[tuple[float, float]] | None): as :func:`windows`.
        title (str): of the picture.
        path (Path): file to write.
        before (View | None): of other weights, drawn above it.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    views = {'before': before, 'after': view} if before else {'': view}
    figure = plt.figure(figsize=(13, 8 * len(views)), layout='constrained')
    figure.suptitle(title)
    parts = figure.subfigures(len(views), 1, squeeze=False)[:, 0]
    for part, (name, one) in zip(parts, views.items()):
        part.suptitle(name, weight='bold')
        if view.taps is not None:
            chosen = windows(view, points, canvas)
            _draw_taps(part, canvas, one, chosen, list(views.values()))
        else:
            _draw_gates(part, canvas, one, list(views.values()))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _draw_taps(figure, canvas, view, chosen, views) -> None:
    kh, kw, height, width = view.taps.shape
    even_value = 1 / (kh * kw) if view.even is not None else None
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 2))
    left, right = upper.subfigures(1, 2)

    axis = left.subplots()
    every = np.stack([one.taps for one in views])
    low, high, colours = _range(every, even_value)
    # One step of the output, in pixels of the canvas.
    cell = canvas.shape[0] / height, canvas.shape[1] / width
    gap = min(step * size for step, size in zip(view.step, cell))
    apart = max(1.0, canvas.shape[1] / 36 / gap)
    note = '' if apart == 1 else f', {apart:.1f} times as far apart as it is'
    _show_image(
        axis,
        canvas,
        'Windows looked at: a disc a tap, its colour the weight' + note,
    )
    for number, (row, column) in enumerate(chosen):
        colour = COLOURS[number]
        y, x = (row + 0.5) * cell[0], (column + 0.5) * cell[1]
        offsets = [
            (np.arange(k) - (k - 1) / 2) * step * size * apart
            for k, step, size in zip((kh, kw), view.step, cell)
        ]
        ys, xs = np.meshgrid(y + offsets[0], x + offsets[1], indexing='ij')
        axis.scatter(
            xs,
            ys,
            90,
            view.taps[:, :, row, column],
            cmap=colours,
            vmin=low,
            vmax=high,
            edgecolors=colour,
        )
        axis.annotate(
            str(number + 1),
            (xs.max(), ys.min()),
            (12, 12),
            textcoords='offset points',
            color='white',
            weight='bold',
            bbox=dict(boxstyle='circle', facecolor=colour, edgecolor='white'),
        )

    axes = right.subplots(kh, kw, squeeze=False)
    right.suptitle(
        'One map a tap: what it weighs in the window around each place'
        + (f'\nwhite: {even_value:.3f}, all taps alike' if even_value else ''),
        fontsize='medium',
    )
    for i in range(kh):
        for j in range(kw):
            shown = axes[i, j].imshow(
                view.taps[i, j], colours, vmin=low, vmax=high
            )
            axes[i, j].set(xticks=[], yticks=[])
    right.colorbar(shown, ax=axes, label='weight', shrink=0.8)

    panels = len(chosen) + (view.even is not None)
    axes = lower.subplots(1, panels, squeeze=False)[0]
    for number, (row, column) in enumerate(chosen):
        axis = axes[number]
        values = view.taps[:, :, row, column]
        axis.imshow(values, colours, vmin=low, vmax=high)
        axis.set_title(
            f'{number + 1}: mean ± spread over channels',
            color=COLOURS[number],
            fontsize='small',
        )
        axis.set(xticks=[], yticks=[])
        for i in range(kh):
            for j in range(kw):
                spread = view.spread[i, j, row, column]
                axis.text(
                    j,
                    i,
                    f'{values[i, j]:.3f}\n±{spread:.3f}',
                    ha='center',
                    va='center',
                    fontsize='small',
                    bbox=dict(facecolor='white', alpha=0.6, linewidth=0),
                )
    if view.even is not None:
        low = min(0.99, *(one.even.min() for one in views))
        shown = axes[-1].imshow(view.even, 'viridis', vmin=low, vmax=1)
        axes[-1].set_title(
            'How evenly a window is weighed (entropy of the\nsoftmax): 1 all '
            'taps alike, 0 one tap alone',
            fontsize='small',
        )
        axes[-1].set(xticks=[], yticks=[])
        lower.colorbar(shown, ax=axes[-1])


def _range(
    values: np.ndarray, centre: float | None
) -> tuple[float, float, str]:
    """Least and greatest value of a colour map, and its name."""
    if centre is None:
        return values.min(), values.max(), 'viridis'
    # What is less than 2 % off is not made to look like much.
    reach = max(np.abs(values - centre).max(), 0.02 * centre)
    return centre - reach, centre + reach, 'RdBu_r'


def _show_image(axis, canvas: np.ndarray, title: str) -> None:
    axis.imshow(canvas)
    axis.set_title(title, fontsize='medium')
    axis.set(xticks=[], yticks=[])


def _draw_gates(figure, canvas, view, views) -> None:
    kinds = [
        name
        for name in ('pixels', 'channels', 'kernel')
        if getattr(view, name) is not None
    ]
    axes = figure.subplots(1, len(kinds) + 1, squeeze=False)[0]
    _show_image(axes[0], canvas, 'What the network sees')
    for axis, kind in zip(axes[1:], kinds):
        values, *every = (getattr(one, kind) for one in (view, *views))
        if kind == 'channels':
            axis.bar(np.arange(len(values)), np.sort(values)[::-1], 1.0)
            axis.set(
                title='Weight of each channel, sorted',
                xlabel='channels',
                ylim=(0, 1),
            )
            continue
        if kind == 'kernel':
            values, *every = (v.mean((0, 1)) for v in (values, *every))
            title = 'Weight of each tap of the kernel,\nmean over its channels'
        else:
            title = 'Weight of each pixel, mean over channels'
        low, high, colours = _range(np.stack(every), None)
        shown = axis.imshow(values, colours, vmin=low, vmax=high)
        axis.set_title(title, fontsize='medium')
        axis.set(xticks=[], yticks=[])
        figure.colorbar(shown, ax=axis, shrink=0.5)


if __name__ == '__main__':
    sys.exit(run_tool(main))
