"""Batch norms of operators, set to what training batches will show them."""

from collections.abc import Iterable

import torch
from torch import nn

from mmrfa.conversion.sample import Sample, evaluating, run
from mmrfa.layers import AttentionConv2d, set_moments
from mmrfa.layers.norm import check_whole


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Sample]) -> int:
    """Bring training mode near to what an exact start computes in eval mode.

    RFAConv, RFCBAMConv and RFCAConv normalise their features; in training
    mode by the batch. With its moments in the norm, that changes little.

    Args:
        model (nn.Module): a network with operators; changed in place, its
            outputs in eval mode stay.
        batches (Iterable[Sample]): inputs of the network, such as training
            images (N, 3, H, W).

    Returns:
        int: number of batches.

    Raises:
        InputError: a norm was folded, or lacks a part; nothing was changed.
    """
    sums: dict[AttentionConv2d, list] = {}

    def add(operator: AttentionConv2d, args: tuple, kwargs: dict) -> None:
        # The input of the batch norm; fused forms do not call that module.
        x = args[0] if args else kwargs['input']
        x = x.unsqueeze(0) if x.dim() == 3 else x
        y = operator.feature(x).double()
        entry = sums.setdefault(operator, [0, 0, 0])
        entry[0] += y.numel() / y.size(1)
        entry[1] += y.sum((0, 2, 3))
        entry[2] += y.square().sum((0, 2, 3))

    operators = [
        module
        for module in model.modules()
        if isinstance(module, AttentionConv2d)
        and module.feature_norm is not None
    ]
    for operator in operators:
        check_whole(operator.feature_norm)
    hooks = [
        each.register_forward_pre_hook(add, with_kwargs=True)
        for each in operators
    ]
    count = 0
    try:
        with evaluating(model):
            for batch in batches:
                run(model, batch)
                count += 1
    finally:
        for hook in hooks:
            hook.remove()
    for operator, (number, total, squares) in sums.items():
        norm = operator.feature_norm
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * factor
        mean = total / number
        var = (squares / number - mean**2).clamp(min=0)
        set_moments(norm, mean.to(shift), var.to(shift))
        norm.weight.mul_(factor)
        norm.bias.mul_(factor).add_(shift)
    return count
