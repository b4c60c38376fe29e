"""Running a network on a sample without leaving a trace in it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten

from mmrfa.errors import InputError

Sample = Tensor | tuple | list | dict


def check_sample(model: nn.Module, sample: Sample) -> None:
    """Refuse a sample that the network cannot run on.

    Args:
        model (nn.Module): the network.
        sample (Sample): its input: a tensor, positional arguments as a tuple
            or list, or named ones as a dict.

    Raises:
        InputError: of another kind, without a tensor or values, on another
            device than the network, or the network is not built yet.
    """
    if not isinstance(sample, (Tensor, tuple, list, dict)):
        raise InputError(
            'sample: expected a tensor, a tuple or a dict of arguments, got '
            f'{type(sample).__name__}'
        )
    found = tensors(sample)
    if not found:
        raise InputError('sample: expected a tensor in it, got none')
    lazy = [n for n, p in model.named_parameters() if is_lazy(p)]
    if lazy:
        raise InputError(
            f'sample: expected a network that has run before, got {lazy[0]} '
            'without a shape'
        )
    devices = {p.device for p in model.parameters()}
    for tensor in found:
        if devices and tensor.device not in devices:
            raise InputError(
                'sample: expected it on the device of the network, '
                f'{", ".join(map(str, devices))}, got {tensor.device}'
            )
    if any(tensor.is_meta for tensor in found):
        raise InputError('sample: expected values in it, got a meta tensor')


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode; then every module as it was.

    Flags alone: ``train`` and ``eval`` of a network may do more, such as merge
    weights, which flags would not undo.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def run(model: nn.Module, sample: Sample) -> object:
    """Call a network with what a sample stands for."""
    if isinstance(sample, Tensor):
        return model(sample)
    if isinstance(sample, dict):
        return model(**sample)
    return model(*sample)


@torch.no_grad()
def outputs(model: nn.Module, sample: Sample) -> list[Tensor]:
    """Run a network in eval mode, with random numbers that are the same.

    Args:
        model (nn.Module): the network.
        sample (Sample): checked.

    Returns:
        list[Tensor]: the floating point tensors of what it returns.

    Raises:
        InputError: it fails, or gives no such tensor.
    """
    tf32 = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = False
        with evaluating(model), torch.random.fork_rng():
            torch.manual_seed(0)
            result = run(model, sample)
    except Exception as error:  # whatever the network raises
        lines = str(error).splitlines() or ['']
        raise InputError(
            f'sample: expected an input of this {type(model).__name__}, got '
            f'{type(error).__name__}: {lines[0]}'
        ) from error
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    found = [t.clone() for t in tensors(result) if t.is_floating_point()]
    if not found:
        raise InputError(
            f'sample: expected a {type(model).__name__} that returns tensors '
            f'to compare, got {type(result).__name__}'
        )
    return found


def tensors(value: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    return [t for t in tree_flatten(value)[0] if isinstance(t, Tensor)]


def relative_error(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Greatest difference by greatest value, of the worst tensor.

    Args:
        ours, theirs (list[Tensor]): outputs of two networks.

    Returns:
        float: infinite where shapes differ, NaN where a value is none.
    """
    worst = 0.0
    if [t.shape for t in ours] != [t.shape for t in theirs]:
        return float('inf')
    for a, b in zip(ours, theirs):
        if b.numel() and not a.equal(b):
            a, b = a.double(), b.double()
            gap = float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
            if math.isnan(gap):
                return gap
            worst = max(worst, gap)
    return worst
