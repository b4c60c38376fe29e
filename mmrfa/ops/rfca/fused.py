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
        rows = grid.mean((3, 5)).transpose(2, 3).flatten(2).unsqueeze(3)
        columns = grid.mean((2, 4)).transpose(2, 3).flatten(2).unsqueeze(2)
        rows, columns = gates_of_means(
            rows, columns, squeeze, squeeze_bias, pure_gate_norm, *expand
        )
        # In full: with no image in the batch, -1 could be any size.
        height, width = grid.shape[4:]
        rows = rows.view(*rows.shape[:2], height, kernel_size[0])
        rows = rows.transpose(2, 3)
        columns = columns.view(*columns.shape[:2], width, kernel_size[1])
        columns = columns.transpose(2, 3)
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
