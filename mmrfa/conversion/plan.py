"""What a conversion would do: which convolutions, and why others stay."""

import inspect
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from mmrfa.conversion.choice import Choice, chooser, why_unusual
from mmrfa.conversion.floors import Traced, Watch, trace
from mmrfa.conversion.refusals import (
    Site,
    Ties,
    check_model,
    find_sites,
    why_not,
)
from mmrfa.conversion.sample import (
    Sample,
    Tensor,
    check_sample,
    evaluating,
    outputs,
)
from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS, AttentionConv2d
from mmrfa.ops import use_backend

STARTS = 'exact', 'fresh'
# What the convolution replaced says.
_OF_CONV = (
    'in_channels out_channels kernel_size stride padding dilation groups '
    'padding_mode device dtype'
).split()
_ATTRIBUTES = vars(nn.Conv2d(1, 1, 1)).keys()
# Methods that merge convolutions by their weights, of timm, ultralytics and
# others.
_MERGING = 'fuse', 'reparameterize', 'switch_to_deploy'
# An unknown range is what a sample shows of it, twice.
MARGIN = 2


@dataclass
class Row:
    """One convolution of a plan.

    Attributes:
        name (str): in the network; '' is the network itself.
        old (str): the convolution.
        new (str | None): the operator; None where the convolution stays.
        parameters (tuple[int, int]): before and after.
        flops (tuple[int, int] | None): before and after, of one run on the
            sample; a multiplication and an addition are two.
        floor (float | None): of the start, see ``start_as_conv``; None where
            the operator has none.
        why (str | None): why the convolution stays.
        asked (bool): ``where`` asks for it, ``exclude`` does not.
    """

    name: str
    old: str
    new: str | None = None
    parameters: tuple[int, int] = (0, 0)
    flops: tuple[int, int] | None = None
    floor: float | None = None
    why: str | None = None
    asked: bool = True


@dataclass
class Plan:
    """What becomes of the convolutions of a network; prints as a table.

    Attributes:
        rows (list[Row]): every convolution, in the order of modules.
        problem (str | None): what ``convert_convs`` would refuse, and why.
        merging (list[str]): methods of modules around the operators that
            merge convolutions by their weights, such as ``fuse``; they may
            not know that an operator has more than a weight.
        parameters (int): of the network, before.
    """

    rows: list[Row] = field(default_factory=list)
    problem: str | None = None
    merging: list[str] = field(default_factory=list)
    parameters: int = 0

    @property
    def replaced(self) -> list[Row]:
        """The rows of those that get an operator."""
        return [row for row in self.rows if row.new is not None]

    @property
    def skipped(self) -> list[Row]:
        """The rows of those that are asked for and stay."""
        return [row for row in self.rows if row.new is None and row.asked]

    def __str__(self) -> str:
        """What is asked for as an aligned table, the others as a count."""
        head = 'name', 'old', 'new', 'parameters', 'MFLOPs', 'floor or why not'
        table = [head]
        for row in self.rows:
            if row.asked:
                table.append(
                    (
                        row.name or '(the network)',
                        row.old,
                        row.new or '-',
                        _change(row.parameters, row.new, '{:,}'),
                        _change(
                            row.flops and [f / 1e6 for f in row.flops],
                            row.new,
                            '{:,.2f}',
                        ),
                        row.why or _number(row.floor),
                    )
                )
        widths = [max(map(len, column)) for column in zip(*table)]
        lines = [
            '  '.join(c.ljust(w) for c, w in zip(cells, widths)).rstrip()
            for cells in table
        ]
        more = sum(r.parameters[1] - r.parameters[0] for r in self.replaced)
        lines.append(
            f'{len(self.replaced)} of {len(self.rows)} convolutions; '
            f'parameters of the network: {self.parameters:,} -> '
            f'{self.parameters + more:,}'
        )
        others = [row for row in self.rows if not row.asked]
        if others:
            lines.append(f'not asked for: {_reasons(others)}')
        if self.merging:
            lines.append(
                'merge convolutions by their weights; compare outputs behind '
                f'them: {", ".join(self.merging)}'
            )
        if self.problem:
            lines.append(self.problem)
        return '\n'.join(lines)


def _reasons(rows: list[Row]) -> str:
    counts = Counter(row.why for row in rows)
    return '; '.join(f'{n} {why}' for why, n in counts.items())


def _change(numbers: object, new: object, form: str) -> str:
    if not numbers:
        return '-'
    shown = [form.format(n) for n in numbers]
    return ' -> '.join(shown) if new else shown[0]


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.4g}'


class Findings(NamedTuple):
    """A plan, and what a conversion needs beside it."""

    plan: Plan
    kind: type[AttentionConv2d]
    sites: list[tuple[Row, Site]]  # of those that get an operator
    before: list[Tensor] | None  # outputs on the sample
    ran: set[nn.Module]  # convolutions that the sample reaches


def plan_convs(
    model: nn.Module,
    operator: str | type[AttentionConv2d],
    *,
    where: Choice | None = None,
    exclude: Choice | None = None,
    start: str = 'exact',
    sample: Sample | None = None,
    **arguments,
) -> Plan:
    """Report what :func:`convert_convs` would do; the network stays.

    Args:
        model, operator, where, exclude, start, sample, **arguments: those of
            :func:`mmrfa.convert_convs`.

    Returns:
        Plan: a table to print; its ``rows`` are for programs.

    Raises:
        InputError: as :func:`mmrfa.convert_convs`. Nothing to replace and an
            unknown least input are the ``problem`` of the plan.
    """
    return find(model, operator, where, exclude, start, sample, arguments).plan


def find(
    model: nn.Module,
    operator: str | type[AttentionConv2d],
    where: Choice | None,
    exclude: Choice | None,
    start: str,
    sample: Sample | None,
    arguments: dict,
) -> Findings:
    """Plan a conversion; arguments as in :func:`plan_convs`."""
    check_model(model)
    kind = _operator(operator)
    _check_arguments(kind, arguments)
    if start not in STARTS:
        raise InputError(
            f'start: expected {" or ".join(map(repr, STARTS))}, got {start!r}'
        )
    if sample is not None:
        check_sample(model, sample)
    sites = find_sites(model)
    if not sites:
        raise InputError(
            'model: expected convolutions in it, got a '
            f'{type(model).__name__} without'
        )
    rows = _choose(sites, where, exclude)
    ties = Ties(model)
    with evaluating(model):
        traced = trace(model)
    probes: dict[nn.Module, AttentionConv2d] = {}
    taken: list[tuple[Row, Site]] = []
    for row, site in zip(rows, sites):
        row.why = row.why or why_not(site.conv) or ties.why_not(site.conv)
        own = {f'{n}.{key}' for n in site.names for key in ('weight', 'bias')}
        read = traced.read & own
        if read and not row.why:
            row.why = f'{min(read)} is read by others, too'
        if row.why:
            continue
        try:
            probe = make(kind, site.conv, arguments, False, 'meta')
        except InputError as error:
            row.why = str(error)
            continue
        own = [key for key in vars(site.conv) if key not in _ATTRIBUTES]
        clash = next((key for key in own if hasattr(probe, key)), None)
        if clash is not None:
            row.why = f'its {clash} is something else in {kind.__name__}'
            continue
        probes[site.conv] = probe
        taken.append((row, site))
    plan = Plan(rows, parameters=_count(model))
    if not taken:
        plan.problem = (
            f'where, exclude: expected a convolution that {kind.__name__} '
            f'can replace, got none of {len(rows)}: {_reasons(rows)}'
        )
    before = None
    with Watch(model, [site.conv for _, site in taken]) as watch:
        if sample is not None:
            before = outputs(model, sample)
    unknown = []
    for row, site in taken:
        probe = probes[site.conv]
        if start == 'exact' and probe.feature_norm is not None:
            row.floor = _floor(site, traced, watch)
            if row.floor is None:
                unknown.append(row.name)
        bias = make(kind, site.conv, arguments, bool(row.floor), 'meta')
        row.new = kind.__name__
        row.parameters = _count(site.conv), _count(bias)
        if sample is not None:
            row.flops = _flops(site.conv, bias, watch.shapes)
    if unknown:
        plan.problem = _unknown(kind, unknown, sample)
    plan.merging = _merging(model, [site for _, site in taken])
    return Findings(plan, kind, taken, before, set(watch.shapes))


def make(
    kind: type[AttentionConv2d],
    conv: nn.Conv2d,
    arguments: dict,
    bias: bool,
    device,
) -> AttentionConv2d:
    """Build the operator in the place of a convolution.

    Args:
        kind (type[AttentionConv2d]): the operator.
        conv (nn.Conv2d): the convolution.
        arguments (dict): further arguments; ``bias`` too, if it is there.
        bias (bool): the start needs one, whether the convolution has or not.
        device: of the parameters.

    Raises:
        InputError: what the operator refuses, in its own words.
    """
    bias = bias or conv.bias is not None
    try:
        return kind(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            padding_mode=conv.padding_mode,
            device=device,
            dtype=conv.weight.dtype,
            **{'bias': bias, **arguments},
        )
    except InputError:
        raise
    except Exception as error:  # a value of a wrong kind, wherever it hurts
        raise InputError(
            f'{kind.__name__}: expected arguments that it takes, got '
            f'{arguments}: {type(error).__name__}: {error}'
        ) from error


def _operator(operator: object) -> type[AttentionConv2d]:
    known = {kind.__name__: kind for kind in OPERATORS}
    kind = known.get(operator) if isinstance(operator, str) else operator
    if not (inspect.isclass(kind) and issubclass(kind, AttentionConv2d)):
        raise InputError(
            f'operator: expected one of {", ".join(known)} or a subclass of '
            f'AttentionConv2d, got {operator!r}'
        )
    return kind


def _check_arguments(kind: type[AttentionConv2d], arguments: dict) -> None:
    known = kind.__signature__.parameters.keys() - set(_OF_CONV)
    for key in arguments:
        if key in _OF_CONV:
            raise InputError(
                f'{kind.__name__}: expected {key} from the convolution that '
                f'it replaces, got {key}={arguments[key]!r} as an argument'
            )
        if key not in known:
            raise InputError(
                f'{kind.__name__}: expected arguments among '
                f'{", ".join(sorted(known))}, got {key!r}'
            )


def _choose(
    sites: list[Site], where: Choice | None, exclude: Choice | None
) -> list[Row]:
    """Rows that say which convolutions are asked for."""
    names = [name for site in sites for name in site.names]
    wanted = None if where is None else chooser(where, 'where', names)
    left = None if exclude is None else chooser(exclude, 'exclude', names)
    rows = []
    for site in sites:
        conv, why = site.conv, None
        if wanted is None:
            why = why_unusual(conv, site is sites[0])
        elif not any(wanted(name, conv) for name in site.names):
            why = 'not in where'
        if why is None and left is not None:
            if any(left(name, conv) for name in site.names):
                why = 'in exclude'
        count = _count(conv)
        row = Row(
            site.names[0], _describe(conv), None, (count, count), why=why
        )
        row.asked = why is None
        rows.append(row)
    return rows


def _describe(conv: nn.Module) -> str:
    kernel = 'x'.join(map(str, conv.kernel_size))
    channels = f'{conv.in_channels}, {conv.out_channels}'
    return f'{type(conv).__name__}({channels}, {kernel})'


def _count(module: nn.Module) -> int:
    return sum(
        p.numel()
        for p in module.parameters()
        if not isinstance(p, nn.parameter.UninitializedParameter)
    )


def _floor(site: Site, traced: Traced, watch: Watch) -> float | None:
    """The floor in front of a convolution, by the surest that knows it."""
    least = watch.least.get(site.conv)
    found = [traced.floors[n] for n in site.names if n in traced.floors]
    known = watch.known.get(site.conv)
    if found and None not in found:
        known = max(found)
    if least is None or known is not None and least >= -known:
        return known
    return -MARGIN * least


def _unknown(kind: type, names: list[str], sample: Sample | None) -> str:
    got = f'{len(names)} with an unknown one (first: {names[0] or "itself"})'
    wanted = (
        'give sample=, an input of the network, to measure it'
        if sample is None
        else 'the sample does not reach them'
    )
    return (
        f"{kind.__name__}: expected a least input for start='exact', got "
        f"{got}: {wanted}, or leave them to exclude=, or start='fresh'"
    )


@torch.no_grad()  # or torch 2.1 looks for a device module of meta
def _flops(conv: nn.Conv2d, new: nn.Module, shapes: dict) -> tuple[int, int]:
    """Operations of a convolution and its operator, of all calls."""
    # Imported here: it brings triton.
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for module in make(nn.Conv2d, conv, {}, False, 'meta'), new.eval():
        with use_backend(None), FlopCounterMode(display=False) as counter:
            for shape in shapes.get(conv, ()):
                module(module.weight.new_empty(shape))
        counts.append(counter.get_total_flops())
    return tuple(counts)


def _merging(model: nn.Module, sites: list[Site]) -> list[str]:
    """Methods that merge, of what is around the convolutions."""
    around = {name.rpartition('.')[0] for site in sites for name in site.names}
    around |= {
        '.'.join(name.split('.')[:i])
        for name in around
        for i in range(len(name.split('.')))
    }
    found = {}
    for name in sorted(around):
        module = model.get_submodule(name)
        for method in _MERGING:
            if callable(getattr(module, method, None)):
                found.setdefault(f'{type(module).__name__}.{method}')
    return list(found)
