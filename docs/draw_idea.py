"""Draw the picture of the idea, docs/idea.png, from computed values.

A plain convolution, spatial attention in front of one, and RFAConv look at
the same image. For two overlapping windows the picture shows the weights that
each of them puts on the taps.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from mmrfa.layers import RFAConv
from mmrfa.layers.gates import SpatialGate
from mmrfa.layers.parts import conv_norm
from mmrfa.ops import receptive_field, receptive_field_features, spatial_gate
from mmrfa.ops.common.taps import softmax_over_taps

SIZE = 6
# First row and column of each window; they overlap in 2 x 2 pixels.
WINDOWS = {'A': (1, 1), 'B': (2, 2)}
SHARED = (3, 2)  # the pixel that the picture follows, in both windows
COLOURS = {'A': '#d95f02', 'B': '#1f5fb4'}
STAR = '#c2185b'
PANELS = {
    'plain': ('Plain convolution', 'the kernel'),
    'spatial': ('Spatial attention', 'a weight for every pixel'),
    'rfa': (
        'Receptive-field attention',
        'a weight for every tap of every window',
    ),
}


def compute() -> dict[str, dict]:
    """Run the three operations on one image.

    Returns:
        dict: ``image`` (SIZE, SIZE), and for ``plain``, ``spatial`` and
        ``rfa`` the (3, 3) weights by window name.

    Raises:
        RuntimeError: a layer did something else than what is drawn.
    """
    torch.manual_seed(3)
    image = _image()
    x = image[None, None]
    conv = nn.Conv2d(1, 1, 3)
    gate = SpatialGate(3)
    rfa = RFAConv(1, 1, 3).eval()
    # Wider than the usual start, where all weights would look alike.
    nn.init.normal_(gate.conv.weight, std=1.0)
    nn.init.normal_(rfa.attn.weight, std=2.0)
    with torch.no_grad():
        field = receptive_field(x, rfa.window)
        seen_map = spatial_gate(x, gate.conv.weight)
        seen = receptive_field(seen_map, rfa.window)
        gain = rfa.attn.weight.view(1, 1, 9, 1, 1)
        alpha = softmax_over_taps(field.mean(2, keepdim=True) * gain)
        features = receptive_field_features(
            x, conv_norm(rfa.feature, rfa.norm), rfa.window
        )
        kernel = conv.weight.detach().view(1, 1, 9, 1, 1)
        kernel = kernel.expand_as(field)
        _same(conv(x), kernel * field, conv.bias)
        _same(conv(gate(x)), kernel * seen * field, conv.bias)
        own = rfa.weight.view(1, 1, 9, 1, 1)
        _same(rfa(x), own * alpha * features, rfa.bias)
    found = dict(plain=kernel, spatial=seen, rfa=alpha)
    return dict(
        image=image,
        **{
            name: {
                window: taps[0, 0, :, row, column].view(3, 3)
                for window, (row, column) in WINDOWS.items()
            }
            for name, taps in found.items()
        },
    )


def _image() -> Tensor:
    """A bright disc on a dark ground, with a little noise."""
    at = torch.arange(SIZE, dtype=torch.float32)
    far = (at[:, None] - 3.6).square() + (at[None] - 4).square()
    image = torch.exp(-far / 5)
    return (image + 0.12 * torch.rand(SIZE, SIZE)).clamp(0, 1)


def _same(output: Tensor, products: Tensor, bias: Tensor) -> None:
    """Make sure that the products shown are what the layer adds up."""
    if not torch.allclose(output, products.sum(2) + bias, atol=1e-5):
        raise RuntimeError('the layer does not compute what is drawn')


def at_shared_pixel(taps: dict[str, Tensor]) -> dict[str, float]:
    """The weight on the followed pixel, by window."""
    return {
        window: float(taps[window][SHARED[0] - row, SHARED[1] - column])
        for window, (row, column) in WINDOWS.items()
    }


def draw(path: str | Path) -> None:
    """Draw the picture.

    Args:
        path (str | Path): file to write; its ending sets the format.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    values = compute()
    figure = plt.figure(figsize=(12, 3.7), facecolor='white')

    def write(x: float, title: str, subtitle: str, verdict: str) -> None:
        text = dict(x=x, ha='center', va='center')
        figure.text(y=0.92, s=title, fontsize=14, weight='bold', **text)
        figure.text(y=0.83, s=subtitle, fontsize=11, **text)
        figure.text(y=0.12, s=verdict, fontsize=12, linespacing=1.6, **text)

    write(0.11, 'Two windows', 'of a 3x3 kernel', '★ is a pixel of both')
    axes = figure.add_axes((0.02, 0.2, 0.18, 0.584))
    axes.imshow(values['image'], cmap='gray', vmin=0, vmax=1.1)
    axes.set_axis_off()
    for window, (row, column) in WINDOWS.items():
        _box(axes, row, column, 3, edgecolor=COLOURS[window], linewidth=3.5)
    for window, at in (('A', (0.95, 0.92)), ('B', (4.05, 4.1))):
        axes.text(
            *at,
            window,
            color=COLOURS[window],
            fontsize=15,
            weight='bold',
            ha='center',
            va='center',
        )
    _star(axes, SHARED[1], SHARED[0], 17)
    for i, (name, (title, subtitle)) in enumerate(PANELS.items()):
        left = 0.235 + 0.26 * i
        taps = values[name]
        write(left + 0.1175, title, subtitle, _verdict(name, taps))
        both = torch.stack(list(taps.values()))
        for j, window in enumerate(WINDOWS):
            axes = figure.add_axes((left + 0.121 * j, 0.35, 0.114, 0.37))
            _tiles(axes, taps[window], window, both.min(), both.max())
            if name != 'plain':
                _mark_overlap(axes, window)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _tiles(axes, taps: Tensor, window: str, low: float, high: float) -> None:
    """The weights of one window as coloured numbers."""
    axes.imshow(taps, cmap='YlGn', vmin=low, vmax=high + 0.5 * (high - low))
    for i in range(3):
        for j in range(3):
            axes.text(
                j,
                i,
                f'{taps[i, j]:.2f}',
                ha='center',
                va='center',
                fontsize=10,
            )
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(color=COLOURS[window], linewidth=3.5)
    axes.set_xlabel(
        f'window {window}',
        color=COLOURS[window],
        fontsize=11,
        weight='bold',
    )


def _mark_overlap(axes, window: str) -> None:
    """Outline what both windows see, with the star on the followed pixel."""
    row, column = WINDOWS[window]
    first = [max(starts) for starts in zip(*WINDOWS.values(), strict=True)]
    _box(
        axes,
        first[0] - row,
        first[1] - column,
        2,
        edgecolor=STAR,
        linewidth=2,
        linestyle=(0, (3, 1.5)),
    )
    _star(axes, SHARED[1] - column, SHARED[0] - row - 0.32, 10)


def _box(axes, row: int, column: int, size: int, **style) -> None:
    from matplotlib.patches import Rectangle

    corner = (column - 0.5, row - 0.5)
    axes.add_patch(Rectangle(corner, size, size, fill=False, **style))


def _star(axes, x: float, y: float, size: float) -> None:
    style = dict(color=STAR, markeredgecolor='white', markeredgewidth=0.6)
    axes.plot(x, y, marker='*', markersize=size, **style)


def _verdict(name: str, taps: dict[str, Tensor]) -> str:
    """What the numbers say, in words."""
    if name == 'plain':
        sign = '=' if torch.equal(taps['A'], taps['B']) else '≠'
        return f'kernel in A {sign} kernel in B\nshared by all windows'
    first, second = at_shared_pixel(taps).values()
    shared = first == second
    return (
        f'★  {first:.2f} in A {"=" if shared else "≠"} {second:.2f} in B\n'
        + (
            'shared where windows overlap'
            if shared
            else 'each window has its own'
        )
    )


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).with_name('idea.png')
    parser.add_argument('out', nargs='?', default=default)
    draw(parser.parse_args().out)


if __name__ == '__main__':
    main()
