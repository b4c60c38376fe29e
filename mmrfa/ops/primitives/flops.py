"""Operations of the primitives, for ``torch.utils.flop_counter``.

They are counted as those of the equations, two convolutions, so that every
form of an operator has the same number. Moments and pools count none: they
see the features that are counted with the convolution.
"""

import logging

import torch

Shape = list[int]


def register() -> None:
    """Tell the counter, for a torch that has the operators."""
    logger = logging.getLogger('torch.utils.flop_counter')
    logger.disabled = True  # it would complain where there is no triton
    try:
        from torch.utils.flop_counter import (
            conv_backward_flop,
            conv_flop_count,
            register_flop_formula,
        )
    finally:
        logger.disabled = False

    @register_flop_formula(torch.ops.mmrfa.rf_conv)
    def forward(
        x, gain, feature_weight, feature_shift, weight, *rest, out_shape
    ) -> int:
        features = conv_flop_count(x, _features(x, weight), out_shape)
        return features + conv_flop_count(x, weight, out_shape)

    @register_flop_formula(torch.ops.mmrfa.rf_conv_backward)
    def backward(
        grad, x, gain, feature_weight, feature_shift, weight, *rest, out_shape
    ) -> int:
        images, _, height, width = grad
        kh, kw = weight[2:]
        features = _features(x, weight)
        spread = [*x[:2], height * kh, width * kw]
        made = [images, features[0], height, width]
        return of_conv(made, x, features) + of_conv(grad, spread, weight)

    def of_conv(grad: Shape, x: Shape, weight: Shape) -> int:
        """As for a convolution whose every input wants a gradient."""
        rest = None, None, None, None, False, None, None, [True, True]
        return conv_backward_flop(grad, x, weight, *rest, out_val=[x, weight])


def _features(x: Shape, weight: Shape) -> Shape:
    """Of the weight of the grouped convolution that makes the features."""
    kh, kw = weight[2:]
    return [x[1] * kh * kw, 1, kh, kw]
