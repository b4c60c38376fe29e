"""Putting operators into the places of convolutions."""

import copy
import logging
from numbers import Real

import torch
from torch import Tensor, nn

from mmrfa.conversion.choice import Choice
from mmrfa.conversion.floors import Watch
from mmrfa.conversion.plan import Findings, find, make
from mmrfa.conversion.refusals import Site, check_model
from mmrfa.conversion.sample import Sample, outputs, relative_error
from mmrfa.errors import InputError
from mmrfa.layers import AttentionConv2d

LOGGER = logging.getLogger(__name__)
# Of outputs behind an exact start, also where half precision rounds them.
LOOSEST = 0.1


def convert_convs(
    model: nn.Module,
    operator: str | type[AttentionConv2d],
    *,
    where: Choice | None = None,
    exclude: Choice | None = None,
    start: str = 'exact',
    sample: Sample | None = None,
    inplace: bool = False,
    tolerance: float | None = None,
    **arguments,
) -> nn.Module:
    """Put an operator in the place of convolutions of any network.

    Only a plain ``nn.Conv2d`` is replaced; what stays although it is asked
    for, and why, is a warning, and :func:`mmrfa.plan_convs` tells all.
    Names, device, dtype, memory format, training mode and ``requires_grad``
    stay; a frozen convolution becomes an operator with frozen parameters,
    whose norms still move in training mode. Optimizers, averaged copies, and
    compiled, distributed or quantised forms are made afterwards: they hold
    the parameters as they were.

    Args:
        model (nn.Module): the network.
        operator (str | type[AttentionConv2d]): name or class of the operator.
        where (Choice | None): a kernel size, globs or a compiled regex over
            names, or ``callable(name, conv)``. None takes every 3x3 but the
            first convolution and depthwise ones.
        exclude (Choice | None): what to leave out, likewise.
        start (str): 'exact' keeps what the network computes in eval mode;
            'fresh' draws the operators as their constructor does.
        sample (Tensor | tuple | dict | None): input of the network, one or
            several arguments. With it the outputs before and after are
            compared, and floors that are not known are measured: twice the
            least value that it shows. Where a later input lies below that,
            the start is not exact.
        inplace (bool): change ``model`` itself and not a copy of it.
        tolerance (float | None): greatest relative difference on the sample.
            None is 1000 times the rounding error of the dtype, in float32
            1e-4.
        **arguments: of the operator. ``bias`` is that of the convolution,
            unless it is given, or the start needs one (a floor that is not
            0).

    Returns:
        nn.Module: the converted network; where the network was the
        convolution itself, the operator.

    Raises:
        InputError: a network, operator, argument or pattern that cannot be
            used; nothing to replace; an input whose least value is not
            known; or a difference beyond the tolerance. The network stays as
            it was.
    """
    check_model(model)
    number = isinstance(tolerance, Real) and tolerance >= 0
    if tolerance is not None and not number:
        raise InputError(
            f'tolerance: expected a number of at least 0, got {tolerance!r}'
        )
    if not inplace:
        try:
            model = copy.deepcopy(model)
        except Exception as error:  # of a network of any kind
            raise InputError(
                f'model: expected one that can be copied, got {error}; '
                'inplace=True makes no copy'
            ) from error
    found = find(model, operator, where, exclude, start, sample, arguments)
    if found.plan.problem is not None:
        raise InputError(found.plan.problem)
    new = [
        _start(found, row.floor, site, start, arguments)
        for row, site in found.sites
    ]
    old = [site.conv for _, site in found.sites]
    result = model
    try:
        result = _swap(model, found, new)
        if sample is not None:
            with Watch(result, new) as watch:
                after = outputs(result, sample)
            _check(found, new, watch, after, start, tolerance)
    except BaseException:
        _swap(result, found, old)
        raise
    _tell(found)
    return result


@torch.no_grad()
def _start(
    found: Findings,
    floor: float | None,
    site: Site,
    start: str,
    arguments: dict,
) -> AttentionConv2d:
    """Build an operator that stands for a convolution."""
    conv = site.conv
    weight, bias = conv.weight, conv.bias
    if start == 'exact' and weight.is_meta:
        raise InputError(
            f"model: expected weights for start='exact', got {site.names[0]} "
            "on the meta device; start='fresh' needs none"
        )
    new = make(found.kind, conv, arguments, bool(floor), weight.device)
    if start == 'exact':
        new.start_as_conv(weight, bias, floor or 0.0)
    if not weight.is_contiguous():
        new.to(memory_format=torch.channels_last)
    if not weight.requires_grad:
        new.requires_grad_(False)
    if None not in (new.bias, bias):
        new.bias.requires_grad_(bias.requires_grad)
    for old, own in (conv, new), (weight, new.weight), (bias, new.bias):
        if None not in (old, own):
            for key, value in vars(old).items():
                if key not in vars(own):  # set by the network, for itself
                    setattr(own, key, value)
    return new.train(conv.training)


def _swap(
    model: nn.Module, found: Findings, modules: list[nn.Module]
) -> nn.Module:
    """Put a module into every place of each site; the root is returned."""
    for (_, site), module in zip(found.sites, modules):
        for parent, key in site.places:
            setattr(parent, key, module)
        if not site.places:
            model = module
    return model


def _check(
    found: Findings,
    new: list[AttentionConv2d],
    watch: Watch,
    after: list[Tensor],
    start: str,
    tolerance: float | None,
) -> None:
    """Raise where the converted network does not do what it should."""
    for (row, site), operator in zip(found.sites, new):
        if site.conv in found.ran and operator not in watch.shapes:
            raise InputError(
                f'model: expected {row.name or "the convolution"} to run '
                'where it is registered, got a network that keeps it '
                'elsewhere, too'
            )
    if not any(operator in watch.shapes for operator in new):
        raise InputError(
            'sample: expected a network that runs what was replaced, got '
            f'none of {len(new)} operators that ran; its forward may be of '
            'another one'
        )
    if start != 'exact':
        return
    if not all(t.isfinite().all() for t in found.before):
        raise InputError(
            'sample: expected finite outputs of the network before, got others'
        )
    if tolerance is None:
        dtypes = [t.dtype for t in (*after, *(op.weight for op in new))]
        eps = max(torch.finfo(dtype).eps for dtype in dtypes)
        tolerance = min(1000 * eps, LOOSEST)
    error = relative_error(after, found.before)
    if not error <= tolerance:
        raise InputError(
            f'sample: expected the outputs before within {tolerance:.1e} '
            f"(relative) behind start='exact', got {error:.1e}; the network "
            'is as it was, tolerance= takes more'
        )


def _tell(found: Findings) -> None:
    plan = found.plan
    LOGGER.info('%s', plan)
    if plan.skipped:
        first = plan.skipped[0]
        LOGGER.warning(
            '%d of %d convolutions asked for stay (first: %s: %s); '
            'plan_convs tells all',
            len(plan.skipped),
            len(plan.skipped) + len(plan.replaced),
            first.name,
            first.why,
        )
    if plan.merging:
        LOGGER.warning(
            'methods that merge convolutions by their weights may not know '
            'operators, compare outputs behind them: %s',
            ', '.join(plan.merging),
        )
