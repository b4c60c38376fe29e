"""Batch norms of operators, set to what training batches will show them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmrfa.conversion.sample import Sample, evaluating, run
from mmrfa.errors import InputError
from mmrfa.layers import AttentionConv2d
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
        InputError: nothing to go through; a norm was folded, lacks a part,
            or would get values that are not finite; nothing was changed.
    """
    if not isinstance(batches, Iterable):
        raise InputError(
            'calibrate: expected inputs of the network one by one, got '
            f'{type(batches).__name__}'
        )
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
    found = {
        operator: _with_moments(operator.feature_norm, *entry)
        for operator, entry in sums.items()
        if entry[0]  # else it saw empty batches alone
    }
    for name, module in model.named_modules():
        for key, value in found.get(module, {}).items():
            if not value.isfinite().all():
                raise InputError(
                    f'calibrate: expected finite values for {key} of the '
                    f'norm of {name or type(module).__name__}, got others '
                    f'in {value.dtype}'
                )
    for operator, values in found.items():
        for key, value in values.items():
            getattr(operator.feature_norm, key).copy_(value)
    return count


def _with_moments(
    norm: nn.Module, number: float, total: Tensor, squares: Tensor
) -> dict[str, Tensor]:
    """A norm that computes in eval mode what it does, by other moments.

    Args:
        norm (nn.Module): of an operator.
        number (float): of the values of a channel.
        total (Tensor): their sums, (C,) float64.
        squares (Tensor): sums of their squares.

    Returns:
        dict[str, Tensor]: its parameters and statistics by name.
    """
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * factor
    mean = total / number
    var = (squares / number - mean**2).clamp(min=0).to(norm.running_var)
    mean = mean.to(norm.running_mean)
    return dict(
        running_mean=mean,
        running_var=var,
        weight=((var + norm.eps).sqrt() * factor).to(norm.weight),
        bias=(mean * factor + shift).to(norm.bias),
    )
