"""How far below zero the input of a convolution can lie.

RFAConv, RFCBAMConv and RFCAConv have a ReLU behind their features; their start
is exact where no input lies below ``-floor``. What stands in front tells: read
off the graph of the network, or else, as it runs on a sample, off the module
whose output comes in, or off the values themselves.
"""

import copy
import inspect
import math
import operator
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from mmrfa.layers import AttentionConv2d

# Least and greatest value. Least ones are rounded down, for half precision.
Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)
ACTIVATIONS: dict[str, Range] = {
    'relu': (0, math.inf),
    'relu6': (0, 6),
    'sigmoid': (0, 1),
    'hardsigmoid': (0, 1),
    'softmax': (0, 1),
    'softmax2d': (0, 1),
    'softplus': (0, math.inf),
    'silu': (-0.28, math.inf),  # -0.2785
    'gelu': (-0.172, math.inf),  # -0.1700, by tanh -0.1704
    'hardswish': (-0.38, math.inf),  # -3 / 8
    'mish': (-0.312, math.inf),  # -0.3088
    'selu': (-1.77, math.inf),  # -1.7581
    'tanh': (-1, 1),
    'softsign': (-1, 1),
}
# Give values of their input, means of them and zeros, nothing else.
_PASS = (
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.ChannelShuffle,
    nn.Dropout,
    nn.Dropout2d,
    nn.Flatten,
    nn.Identity,
    nn.MaxPool2d,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.Unflatten,
    nn.ZeroPad2d,
)
_PASS_NAMES = (
    'adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d chunk clone '
    'contiguous detach expand flatten getitem interpolate max_pool2d mean '
    'permute pixel_shuffle pixel_unshuffle reshape split squeeze to '
    'transpose unbind unsqueeze view'
).split()
# Give memory of their own; any other function may give a view.
_FRESH = {
    *ACTIVATIONS,
    *'add sub mul truediv cat concat stack matmul linear conv2d'.split(),
    *'batch_norm layer_norm group_norm'.split(),
}
_NAMESPACES = operator, torch, F


def front(module: nn.Module) -> Range | None:
    """What an activation can give; None for any other module.

    Args:
        module (nn.Module): of torch itself, or it is unknown.
    """
    kind = type(module)
    if kind.__module__ != 'torch.nn.modules.activation' or _altered(module):
        return None
    if kind is nn.Hardtanh:
        return module.min_val, module.max_val
    # With a negative alpha CELU has no lower end.
    if kind is nn.ELU or (kind is nn.CELU and module.alpha > 0):
        return -abs(module.alpha), math.inf
    return ACTIVATIONS.get(kind.__name__.lower())


def _altered(module: nn.Module) -> bool:
    """Whether a module of torch may do something else here."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or 'forward' in vars(module)


def floor_of(values: Range) -> float | None:
    """The floor for values of a range; None where that has no lower end."""
    return max(0.0, -values[0]) if math.isfinite(values[0]) else None


class Traced(NamedTuple):
    """What the graph of a network tells; nothing where there is none.

    Attributes:
        floors (dict[str, float | None]): in front of each convolution, by
            name; None where there is no bound.
        read (set[str]): parameters that are read by name, by others than
            their own module.
    """

    floors: dict[str, float | None]
    read: set[str]


def trace(model: nn.Module) -> Traced:
    """Look at the graph of a network, where torch.fx can make it.

    Args:
        model (nn.Module): in eval mode. It stays as it is: what is traced is
            a copy that shares its parameters.
    """
    if 'forward' in vars(model):  # torch.fx reads that of the class
        return Traced({}, set())
    shared = {id(p): p for p in model.parameters()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            model = copy.deepcopy(model, shared)
            tracer = _Tracer()
            graph = tracer.trace(model, _defaults(model))
    except Exception:  # of a network of any kind, hence of any kind
        return Traced({}, set())
    read = {node.target for node in graph.nodes if node.op == 'get_attr'}
    if tracer.asked or _overwrites(graph, model):
        return Traced({}, read)
    ranges: dict[fx.Node, Range] = {}
    inputs: dict[str, list[Range]] = {}
    for node in graph.nodes:
        ranges[node] = _range(node, model, ranges)
        if _module(node, model, _ConvNd) is not None:
            source = _inputs(node)[:1]
            inputs.setdefault(node.target, []).append(
                ranges[source[0]] if source else ANY
            )
    floors = {
        name: floor_of(min(found, key=operator.itemgetter(0)))
        for name, found in inputs.items()
    }
    return Traced(floors, read)


def _defaults(model: nn.Module) -> dict[str, object]:
    """Arguments of a network that it need not be given.

    Left to torch.fx, they would be no longer what an ``if`` asks for, None.
    """
    parameters = inspect.signature(type(model).forward).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }


class _Proxy(fx.Proxy):
    """Records ``a += b`` as it is; fx would make it ``a = a + b``."""

    @property
    def __class__(self) -> type:  # what isinstance() looks at
        asks = sys._getframe(1).f_globals.get('__name__', '')
        if not asks.startswith(('torch.fx.', 'torch.nn.parameter')):
            self.tracer.asked = True
        return _Proxy


def _augmented(name: str) -> Callable:
    function = getattr(operator, name)
    return lambda self, other: self.tracer.create_proxy(
        'call_function', function, (self, other), {}
    )


_AUGMENTED = 'iadd', 'isub', 'imul', 'itruediv', 'ifloordiv', 'imod', 'ipow'
for _operation in _AUGMENTED:
    setattr(_Proxy, f'__{_operation}__', _augmented(_operation))


class _Tracer(fx.Tracer):
    """Tells, too, whether the network asks for the type of what it is given.

    The graph may be that of another branch then: a proxy is no tensor.
    """

    asked = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(
            module, (_ConvNd, AttentionConv2d)
        ) or super().is_leaf_module(module, name)


def _module(node: fx.Node, model: nn.Module, kind: type) -> nn.Module | None:
    """The module that a node calls, if it is of a kind."""
    if node.op != 'call_module':
        return None
    module = model.get_submodule(node.target)
    return module if isinstance(module, kind) else None


def _inputs(node: fx.Node) -> list[fx.Node]:
    """The nodes that a node takes, flat and in order."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _name(node: fx.Node) -> str:
    """Name of a function of torch or of a method; else ''."""
    if node.op == 'call_method':
        return node.target
    name = getattr(node.target, '__name__', '')
    known = (getattr(space, name, None) for space in _NAMESPACES)
    return name if any(node.target is k for k in known) else ''


def _range(
    node: fx.Node, model: nn.Module, ranges: dict[fx.Node, Range]
) -> Range:
    """What a node can give in eval mode."""

    def of(value: object) -> Range:
        if isinstance(value, (int, float)):
            return value, value
        return ranges[value] if isinstance(value, fx.Node) else ANY

    if node.op == 'call_module':
        module = model.get_submodule(node.target)
        known = front(module)
        if known is None and _passes(node, model):
            known = _with_zero([of(value) for value in _inputs(node)])
        return ANY if known is None else known
    if node.op not in ('call_function', 'call_method'):
        return ANY
    name = _name(node).rstrip('_')
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if _passes(node, model):
        return _with_zero([of(node.args[0])])
    if name in ('cat', 'concat', 'stack') and node.args:
        parts = node.args[0]
        single = isinstance(parts, fx.Node)
        return ANY if single else _with_zero([of(part) for part in parts])
    if name in _ARITHMETIC and len(node.args) == 2 and not node.kwargs:
        if name in ('mul', 'imul') and _is_swish(*node.args, model):
            return ACTIVATIONS['silu']
        return _ARITHMETIC[name](*map(of, node.args))
    return ANY


def _is_swish(a: object, b: object, model: nn.Module) -> bool:
    """Whether one is the sigmoid of the other."""
    for x, gate in (a, b), (b, a):
        if isinstance(gate, fx.Node) and gate.args[:1] == (x,):
            by_name = gate.op != 'call_module' and _name(gate) == 'sigmoid'
            if by_name or _module(gate, model, nn.Sigmoid) is not None:
                return True
    return False


def _passes(node: fx.Node, model: nn.Module) -> bool:
    if node.op == 'call_module':
        module = model.get_submodule(node.target)
        smooth = type(module) is nn.Upsample and module.mode != 'bicubic'
        sums = getattr(module, 'divisor_override', None) is not None
        random = 'Dropout' in type(module).__name__ and module.training
        known = smooth or type(module) in _PASS
        return known and not (sums or random or _altered(module))
    if node.op not in ('call_function', 'call_method') or not node.args:
        return False
    name = _name(node)
    if name == 'interpolate':
        smooth = node.kwargs.get('mode', 'nearest') != 'bicubic'
        return smooth and len(node.args) < 4
    if name == 'dropout':
        return node.kwargs.get('training') is False
    if name == 'avg_pool2d' and (
        'divisor_override' in node.kwargs or len(node.args) > 6
    ):
        return False
    return name in _PASS_NAMES


def _with_zero(ranges: Iterable[Range]) -> Range:
    least, greatest = zip((0.0, 0.0), *ranges)
    return min(least), max(greatest)


def _sum(a: Range, b: Range) -> Range:
    return a[0] + b[0], a[1] + b[1]


def _difference(a: Range, b: Range) -> Range:
    return a[0] - b[1], a[1] - b[0]


def _product(a: Range, b: Range) -> Range:
    # 0 times infinity is 0: the values themselves are finite.
    ends = [x * y if x and y else 0.0 for x in a for y in b]
    return min(ends), max(ends)


_ARITHMETIC: dict[str, Callable[[Range, Range], Range]] = {
    'add': _sum,
    'iadd': _sum,
    'sub': _difference,
    'isub': _difference,
    'mul': _product,
    'imul': _product,
}


def _overwrites(graph: fx.Graph, model: nn.Module) -> bool:
    """Whether a tensor is overwritten that something reads afterwards.

    What is known of it would be wrong then. A ReLU in place is no harm: what
    is known stays true, up to zeros.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    owner: dict[fx.Node, fx.Node] = {}
    names: dict[fx.Node, list[fx.Node]] = {}  # of the memory of an owner
    for node in graph.nodes:
        in_place = _in_place(node, model)
        if in_place:
            named = 'out' in node.kwargs or not node.args
            if named or not isinstance(node.args[0], fx.Node):
                return True
            for other in names[owner[node.args[0]]]:
                if any(order[user] > order[node] for user in other.users):
                    return True
        sources = [] if _is_fresh(node, model) else _inputs(node)
        if in_place:
            sources = sources[:1]
        # Of several it may be a view of any: they count as one memory.
        first, *others = dict.fromkeys(map(owner.get, sources)) or [node]
        for other in others:
            for name in names[other]:
                owner[name] = first
            names[first] += names.pop(other)
        owner[node] = first
        names.setdefault(first, []).append(node)
    return False


def _is_fresh(node: fx.Node, model: nn.Module) -> bool:
    """Whether a node has memory that no node before it has."""
    if node.op == 'call_module':
        module = model.get_submodule(node.target)
        inplace = getattr(module, 'inplace', False)
        return not (inplace or _passes(node, model))
    if node.op in ('call_function', 'call_method'):
        return _name(node) in _FRESH and not _inplace_argument(node)
    return True  # an input, or a parameter


def _in_place(node: fx.Node, model: nn.Module) -> bool:
    if node.op == 'call_module':
        module = model.get_submodule(node.target)
        harmless = type(module) in (nn.ReLU, nn.ReLU6)
        return getattr(module, 'inplace', False) and not harmless
    if node.op == 'call_method':
        return node.target.endswith('_') and node.target != 'relu_'
    if node.op != 'call_function':
        return False
    name = getattr(node.target, '__name__', '')
    if name in ('relu', 'relu_', 'relu6'):  # harmless
        return False
    changes = name in _AUGMENTED or name.endswith('_') or 'out' in node.kwargs
    return changes or _inplace_argument(node)


def _inplace_argument(node: fx.Node) -> bool:
    """Whether a function is told to work in place, by name or not."""
    return any(
        value is True for value in (*node.args, node.kwargs.get('inplace'))
    )


def _marker(values: Range) -> Callable:
    """A hook that writes onto an output what it can be."""

    def mark(_, inputs: tuple, output: Tensor) -> None:
        output._mmrfa_front = values, output._version

    return mark


class Watch:
    """Sees what goes into convolutions while a network runs.

    Args:
        model (nn.Module): the network.
        convs (Iterable[nn.Module]): the convolutions.

    Attributes:
        shapes (dict[nn.Module, list]): of the inputs, one for each call.
        least (dict[nn.Module, float]): least value of all calls.
        known (dict[nn.Module, float | None]): floor by the activations whose
            outputs came in; None where one of them is unknown.
    """

    def __init__(self, model: nn.Module, convs: Iterable[nn.Module]) -> None:
        self.shapes: dict[nn.Module, list] = {}
        self.least: dict[nn.Module, float] = {}
        self.known: dict[nn.Module, float | None] = {}
        self._hooks = [
            conv.register_forward_pre_hook(self._see, with_kwargs=True)
            for conv in convs
        ]
        self._hooks += [
            module.register_forward_hook(_marker(values))
            for module in model.modules()
            if (values := front(module)) is not None
        ]

    def __enter__(self) -> 'Watch':
        return self

    def __exit__(self, *_) -> None:
        for hook in self._hooks:
            hook.remove()

    def _see(self, conv: nn.Module, args: tuple, kwargs: dict) -> None:
        x = args[0] if args else kwargs['input']
        whole = x if x._base is None else x._base  # of a chunk
        values, version = getattr(whole, '_mmrfa_front', (ANY, -1))
        floor = floor_of(values) if version == x._version else None
        before = self.known.get(conv, 0.0)
        unknown = floor is None or before is None
        self.known[conv] = None if unknown else max(floor, before)
        self.shapes.setdefault(conv, []).append(tuple(x.shape))
        least = float(x.min()) if x.numel() else 0.0
        self.least[conv] = min(self.least.get(conv, 0.0), least)
