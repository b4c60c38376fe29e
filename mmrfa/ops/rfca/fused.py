"""RFCAConv in stock PyTorch without the shuffle; any device and dtype."""

from collections.abc import Callable

from torch import Tensor

from mmrfa.ops.common.features import with_features
from mmrfa.ops.common.gates import CoordinateGates, gates_of_means
from mmrfa.ops.common.norm import (
    ConvNorm,
    Norm,
    move,
    normalized,
    unsupported_norm,
)
from mmrfa.ops.common.taps import Conv, sum_over_taps
from mmrfa.ops.common.window import Window, like_input


def supports(
    x: Tensor,
    feature: ConvNorm,
    gates: CoordinateGates,
    conv: Conv,
    window: Window,
) -> str | None:
    """None when :func:`rfca_conv2d` can run, else why not."""
    norms = feature.norm, gates.squeeze.norm
    reasons = [unsupported_norm(norm) for norm in norms]
    return reasons[0] or reasons[1]


def line_gates(
    rows: Tensor,
    columns: Tensor,
    gates: CoordinateGates,
    normalize: Callable[[Tensor, Norm], Tensor],
) -> tuple[Tensor, Tensor]:
    """Coordinate attention on features that were not spread.

    Args:
        rows (Tensor): means over the lines of the spread features,
            (N, C, kh, Ho).
        columns (Tensor): those over its columns, (N, C, kw, Wo).
        gates (CoordinateGates): layers of the attention.
        normalize (Callable): as in :func:`gates_of_means`.

    Returns:
        tuple[Tensor, Tensor]: gates of the same two shapes, in (0, 1).
    """
    # In full: with no image in the batch, -1 could be any size.
    shapes = [
        (*means.shape[:2], means.size(3), means.size(2))
        for means in (rows, columns)
    ]
    rows, columns = gates_of_means(
        rows.transpose(2, 3).flatten(2).unsqueeze(3),
        columns.transpose(2, 3).flatten(2).unsqueeze(2),
        gates,
        normalize,
    )
    return (
        rows.reshape(shapes[0]).transpose(2, 3),
        columns.reshape(shapes[1]).transpose(2, 3),
    )


def rfca_conv2d(
    x: Tensor,
    feature: ConvNorm,
    gates: CoordinateGates,
    conv: Conv,
    window: Window,
) -> Tensor:
    """Compute ``reference.rfca_conv2d``, keeping only ``x`` for backward.

    The means over rows and columns of the spread features, and the gates made
    of them, are reshapes of sums and products over the features as they are.
    """

    def run(
        x: Tensor, features: Tensor, squeeze: Tensor, weight: Tensor
    ) -> tuple:
        moved = []

        def normalize(x: Tensor, norm: Norm) -> Tensor:
            y, statistics = normalized(x, norm)
            moved.append(statistics)
            return y

        grid = features.unflatten(2, window.kernel_size)  # N C kh kw Ho Wo
        layers = gates._replace(squeeze=gates.squeeze._replace(weight=squeeze))
        rows, columns = line_gates(
            grid.mean((3, 5)), grid.mean((2, 4)), layers, normalize
        )
        gated = grid * rows[:, :, :, None, :, None]
        gated = gated * columns[:, :, None, :, None, :]
        out = sum_over_taps(gated.flatten(2, 3), conv._replace(weight=weight))
        return out, moved[0]

    params = gates.squeeze.weight, conv.weight
    out, statistics = with_features(
        run, x, feature, window, params, layers=gates
    )
    if statistics is not None:
        move(gates.squeeze.norm, statistics)
    return like_input(out, x)
