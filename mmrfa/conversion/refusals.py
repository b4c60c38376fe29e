"""What cannot be changed: networks as a whole, and single convolutions."""

from collections import deque
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from mmrfa.errors import InputError
from mmrfa.layers import AttentionConv2d

# By the names of classes: importing some of these takes seconds.
_WRAPPERS = {
    'OptimizedModule': 'a network before torch.compile',
    'ScriptModule': 'a network before TorchScript',
    'FullyShardedDataParallel': 'a network before FSDP shards it',
    'FSDPModule': 'a network before FSDP shards it',
    'DistributedDataParallel': 'a network before DistributedDataParallel',
}
_CONTAINERS = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    deque,
    partial,
    SimpleNamespace,
)
_QUANTISED = 'torch.ao.', 'torch.nn.quantized', 'torch.nn.qat', 'torchao.'


class Site(NamedTuple):
    """A convolution and every place of the network that has it."""

    conv: nn.Module
    names: list[str]
    places: list[tuple[nn.Module, str]]


def find_sites(model: nn.Module) -> list[Site]:
    """List convolutions and operators, in the order of modules."""
    found: dict[int, Site] = {}

    def walk(module: nn.Module, name: str) -> None:
        for key, child in module._modules.items():
            if child is not None:
                visit(child, f'{name}.{key}' if name else key, (module, key))

    def visit(module: nn.Module, name: str, *place) -> None:
        if not isinstance(module, (_ConvNd, AttentionConv2d)):
            return walk(module, name)
        site = found.setdefault(id(module), Site(module, [], []))
        site.names.append(name)
        site.places.extend(place)

    visit(model, '')
    return list(found.values())


def check_model(model: nn.Module) -> None:
    """Refuse networks in which a convolution can no longer be replaced.

    Args:
        model (nn.Module): any.

    Raises:
        InputError: no module; compiled, scripted, sharded, distributed,
            quantised, or made or to be changed under ``inference_mode``.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f'model: expected an nn.Module, got {model!r:.80}')
    if torch.is_inference_mode_enabled():
        raise InputError(
            'model: expected a call outside of torch.inference_mode, got one '
            'inside'
        )
    for name, module in model.named_modules():
        expected = _expected(module)
        if expected is not None:
            raise InputError(
                f'model: expected {expected}, got {type(module).__name__}'
                + (f' as {name}' if name else '')
            )
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            continue
        if parameter.is_inference():
            raise InputError(
                'model: expected one made outside of torch.inference_mode, '
                f'got {name} made inside'
            )
        if type(parameter.data) is not Tensor:
            raise InputError(
                'model: expected parameters that are plain tensors, neither '
                f'sharded nor quantised, got {name} as '
                f'{type(parameter.data).__name__}'
            )


def _expected(module: nn.Module) -> str | None:
    """What should stand in the place of a module; None: it may stay."""
    for kind in type(module).__mro__:
        if kind.__name__ in _WRAPPERS:
            return _WRAPPERS[kind.__name__]
    if getattr(module, '_compiled_call_impl', None) is not None:
        return _WRAPPERS['OptimizedModule']
    quantised = type(module).__module__.startswith(_QUANTISED)
    if quantised or getattr(module, 'qconfig', None) is not None:
        return 'a network before quantisation'
    return None


class Ties:
    """Who else has the tensors of a module, or the module itself.

    Args:
        model (nn.Module): the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._owners: dict[int, list[tuple[nn.Module, str]]] = {}
        self._holders: dict[int, str] = {}
        for name, module in model.named_modules():
            for parameter in _tensors(module):
                owners = self._owners.setdefault(_memory(parameter), [])
                owners.append((module, name))
            for key, value in vars(module).items():
                if key.startswith('_') and isinstance(value, dict):
                    continue  # of nn.Module itself
                for held in _parts(value):
                    held = getattr(held, '__self__', held)  # of a method
                    if isinstance(held, nn.Module):
                        path = f'{name}.{key}' if name else key
                        self._holders[id(held)] = path

    def why_not(self, conv: nn.Module) -> str | None:
        """A sentence where replacing a module would leave half of it."""
        for parameter in _tensors(conv):
            for owner, name in self._owners[_memory(parameter)]:
                if owner is not conv:
                    return f'tied: {name or "the network"} has its parameters'
        if id(conv) in self._holders:
            return f'{self._holders[id(conv)]} refers to it, unregistered'
        return None


def _parts(value: object) -> Iterator[object]:
    """What plain containers in each other have; anything else as it is."""
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, _CONTAINERS):
            yield part
        elif id(part) not in seen:
            seen.add(id(part))
            if isinstance(part, SimpleNamespace):
                part = vars(part)
            if isinstance(part, partial):
                part = [part.func, *part.args, part.keywords]
            waiting += part.values() if isinstance(part, dict) else part


def _tensors(module: nn.Module) -> Iterator[nn.Parameter]:
    for parameter in module._parameters.values():
        if parameter is not None and not is_lazy(parameter):
            yield parameter


def _memory(parameter: Tensor) -> int:
    return parameter.untyped_storage()._cdata


def why_not(conv: nn.Module) -> str | None:
    """Why a module is no plain ``nn.Conv2d``; None where it is one.

    Args:
        conv (nn.Module): a convolution or an operator.
    """
    kind = type(conv).__name__
    if isinstance(conv, AttentionConv2d):
        return 'an operator already'
    if isinstance(conv, _ConvTransposeNd):
        return f'transposed ({kind})'
    if isinstance(conv, LazyModuleMixin):
        return f'{kind}: not built before the network has run once'
    if is_parametrized(conv):
        return f'parametrised: {", ".join(conv.parametrizations)}'
    if type(conv) is not nn.Conv2d:
        known = isinstance(conv, nn.Conv2d)
        return f'{kind}, {"a subclass" if known else "not"} of nn.Conv2d'
    own = [
        name
        for part in (conv._parameters, conv._buffers, conv._modules)
        for name, value in part.items()
        if value is not None and name not in ('weight', 'bias')
    ]
    if own:
        return f'it has {", ".join(own)} of its own'
    hooks = [k for k, v in vars(conv).items() if k.endswith('hooks') and v]
    for name, parameter in conv.named_parameters():
        if parameter._backward_hooks or getattr(
            parameter, '_post_accumulate_grad_hooks', None
        ):
            hooks.append(f'hooks of {name}')
    if hooks:
        return f'it has {", ".join(h.strip("_") for h in hooks)}'
    if 'forward' in vars(conv):
        return 'its forward was replaced'
    if conv._parameters.get('weight') is None:
        return 'its weight is no parameter of its own'
    if not conv.weight.is_floating_point():
        return f'its weight is {conv.weight.dtype}'
    return None
