"""What the operators inside a network weigh, while it sees an image."""

import math
from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.layers import AttentionConv2d


@torch.no_grad()
def inspect(
    net: nn.Module,
    *inputs,
    layers: Iterable[str] | str | None = None,
    **kwargs,
) -> dict[str, dict[str, Tensor]]:
    """Run a network once and tell what its operators weigh.

    The network is run in eval mode and left as it was.

    Args:
        net (nn.Module): with operators anywhere in it, or one itself.
        *inputs, **kwargs: what its ``forward`` takes.
        layers (Iterable[str] | str | None): names of operators as in
            ``net.named_modules()``, or patterns as of a shell
            (``'*.layer4.*'``). None: all. Defaults to None.

    Returns:
        dict[str, dict[str, Tensor]]: by the name of the layer, in the order
        in which they run, what
        :meth:`mmrfa.layers.AttentionConv2d.attention` gives for what the
        layer sees. A layer that runs again in the same pass stands there once
        more, as ``name@2`` and so on.

    Raises:
        InputError: no operator in the network, none that a name or pattern
            fits, or a chosen one that did not run.
    """
    chosen = _chosen(net, layers)
    found = {}

    def look(name: str):
        def hook(layer: AttentionConv2d, args: tuple, given: dict) -> None:
            calls = sum(key.partition('@')[0] == name for key in found)
            key = f'{name}@{calls + 1}' if calls else name
            found[key] = layer.attention(*args, **given)

        return hook

    modes = {module: module.training for module in net.modules()}
    hooks = [
        layer.register_forward_pre_hook(look(name), with_kwargs=True)
        for name, layer in chosen.items()
    ]
    try:
        # Flags alone: an ``eval`` of the network's own may do more than that.
        for module in modes:
            module.training = False
        net(*inputs, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    missed = [name for name in chosen if name not in found]
    if missed:
        raise InputError(
            f'inspect: expected the network to run {missed[0] or "itself"}, '
            'it did not'
        )
    return found


def _chosen(
    net: nn.Module, layers: Iterable[str] | str | None
) -> dict[str, AttentionConv2d]:
    every = {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, AttentionConv2d)
    }
    if not every:
        raise InputError(
            f'inspect: expected an operator of mmrfa in the network, '
            f'{type(net).__name__} has none'
        )
    if layers is None:
        return every
    patterns = [layers] if isinstance(layers, str) else list(layers)
    if not patterns:
        raise InputError('inspect: expected names of operators, got none')
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in every):
            raise InputError(
                f'inspect: expected one of the operators {", ".join(every)}, '
                f'got {pattern}'
            )
    return {
        name: layer
        for name, layer in every.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def evenness(taps: Tensor) -> Tensor:
    """How evenly windows are weighed: the entropy of a softmax over taps.

    Args:
        taps (Tensor): (N, C, K, Ho, Wo), of sum 1 over K.

    Returns:
        Tensor: (N, C, Ho, Wo); 1 where all taps count alike, 0 where one
        counts alone.
    """
    if taps.size(2) == 1:
        return torch.ones_like(taps[:, :, 0])
    return -torch.xlogy(taps, taps).sum(2) / math.log(taps.size(2))
