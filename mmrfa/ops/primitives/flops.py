"""Operations of the primitives, for ``torch.utils.flop_counter``.

They are counted as those of the equations, two convolutions, so that every
form of an operator has the same number. Moments and pools count none: they
see the features that are counted with the convolution.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType

import torch

Shape = list[int]
COUNTER = 'torch.utils.flop_counter'


def register() -> None:
    """Tell the counter, now or as soon as somebody imports it.

    Not before: it imports triton. Not later: a counter takes over at its
    making what is registered then.
    """
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER])
    else:
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(MetaPathFinder):
    """Finds the counter once, as the others do, and registers behind it."""

    def find_spec(self, name: str, path: object, target: object = None):
        if name != COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _register(module)

        spec.loader.exec_module = exec_module
        return spec


def _register(counter: ModuleType) -> None:
    conv_flop_count = counter.conv_flop_count
    register_flop_formula = counter.register_flop_formula

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
        return counter.conv_backward_flop(
            grad, x, weight, *rest, out_val=[x, weight]
        )


def _features(x: Shape, weight: Shape) -> Shape:
    """Of the weight of the grouped convolution that makes the features."""
    kh, kw = weight[2:]
    return [x[1] * kh * kw, 1, kh, kw]
