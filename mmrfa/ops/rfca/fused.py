"""RFCAConv in stock PyTorch without the shuffle; any device and dtype."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from mmrfa.ops.fused import sum_over_taps, with_features
from mmrfa.ops.gates import gates_of_means
from mmrfa.ops.norm import PureNorm, unsupported_norm
from mmrfa.ops.receptive_field import Pair


def supports(
    x: Tensor,
    feature_weight: Tensor,
    norm: Callable,
    gate_params: tuple,
    weight: Tensor,
    *args,
    **kwargs,
) -> str | None:
    """None when :func:`rfca_conv2d` can run, else why not."""
    return unsupported_norm(norm) or unsupported_norm(gate_params[2])


def line_gates(
    rows: Tensor, columns: Tensor, gate_params: tuple
) -> tuple[Tensor, Tensor]:
    """Coordinate attention on features that were not spread.

    Args:
        rows (Tensor): means over the lines of the spread features,
            (N, C, kh, Ho).
        columns (Tensor): those over its columns, (N, C, kw, Wo).
        gate_params (tuple): the further arguments of ``gates_of_means``.

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
        *gate_params,
    )
    return (
        rows.reshape(shapes[0]).transpose(2, 3),
        columns.reshape(shapes[1]).transpose(2, 3),
    )


def compute(
    with_features: Callable[..., Tensor],
    x: Tensor,
    feature_weight: Tensor,
    norm: nn.Module,
    gate_params: tuple,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int = 1,
    feature_bias: Tensor | None = None,
) -> Tensor:
    """Compute ``reference.rfca_conv2d``, keeping only ``x`` for backward.

    ``with_features`` says how the features are made. The means over rows and
    columns of the spread features, and the gates made of them, are reshapes
    of sums and products over the features as they are.
    """
    kernel_size = weight.shape[2:]
    squeeze, squeeze_bias, gate_norm, *expand = gate_params
    pure_gate_norm = PureNorm(gate_norm)

    def run(
        x: Tensor,
        features: Tensor,
        weight: Tensor,
        squeeze: Tensor,
        *expand: Tensor,
    ) -> Tensor:
        grid = features.unflatten(2, kernel_size)  # N, C, kh, kw, Ho, Wo
        rows, columns = line_gates(
            grid.mean((3, 5)),
            grid.mean((2, 4)),
            (squeeze, squeeze_bias, pure_gate_norm, *expand),
        )
        gated = grid * rows[:, :, :, None, :, None]
        gated = gated * columns[:, :, None, :, None, :]
        return sum_over_taps(gated.flatten(2, 3), weight, bias, groups)

    result = with_features(
        run,
        x,
        feature_weight,
        feature_bias,
        norm,
        stride,
        padding,
        dilation,
        weight,
        squeeze,
        *expand,
    )
    pure_gate_norm.update()
    return result


rfca_conv2d = partial(compute, with_features)
