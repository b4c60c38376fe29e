"""Published numbers beside ours, as Markdown."""

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from mmrfa.results.costs import count_config
from mmrfa.results.published import PaperTable
from mmrfa.results.runs import METRICS, Run, select
from mmrfa.results.zoo import PLAIN, TAGS, variant


def markdown(head: list, rows: list[list]) -> str:
    """Write a table.

    Args:
        head (list): a heading for each column.
        rows (list[list]): cells of each row.

    Returns:
        str: Markdown, with a newline at the end.
    """
    lines = [head, ['---'] * len(head), *rows]
    return ''.join(f'| {" | ".join(map(str, line))} |\n' for line in lines)


def put(text: str, name: str, table: str) -> str:
    """Put a table between its marks.

    Args:
        text (str): of a README; ``<!-- table: NAME -->`` and
            ``<!-- end of table -->`` mark the place.
        name (str): of the table.
        table (str): the new one.

    Returns:
        str: the text; unchanged where it has no such marks.
    """
    return re.sub(
        rf'(<!-- table: {name} -->\n).*?(<!-- end of table -->)',
        lambda marks: f'{marks[1]}\n{table}\n{marks[2]}',
        text,
        flags=re.DOTALL,
    )


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation over seeds, or a dash."""
    if not values:
        return '-'
    deviation = f' ± {stdev(values):.2f}' if len(values) > 1 else ''
    return f'{mean(values):.2f}{deviation}'


def scores(runs: list[Run], metric: str) -> list[float]:
    """A metric of the runs that have it, in per cent."""
    return [s for s in (run.score(metric) for run in runs) if s is not None]


def seeds(runs: list[Run]) -> str:
    """Seeds of the runs in their order, unknown ones last, or a dash."""
    known = sorted(run.seed for run in runs if run.seed is not None)
    unknown = ['?'] * (len(runs) - len(known))
    return ', '.join([*map(str, known), *unknown]) or '-'


@dataclass(frozen=True)
class Row:
    """A row of a published table and what stands for it here.

    Attributes:
        model (str): the network, with its schedule where the table has it.
        conv (str): 'plain' or an operator.
        values (dict): what is published, by column.
        config (str | None): name of the config here.
        plain (str | None): that of the same network without operator.
    """

    model: str
    conv: str
    values: dict
    config: str | None
    plain: str | None


def rows(table: PaperTable, configs: dict[str, Path]) -> list[Row]:
    """Rows of a table; of one whose values cannot be read, the zoo's.

    Args:
        table (PaperTable): the table.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        list[Row]: in the order of the table.
    """

    def find(model: str, conv: str) -> str | None:
        if model not in table.configs or conv not in (PLAIN, *TAGS):
            return None
        name = variant(table.configs[model], conv)
        return name if name in configs else None

    def row(model: str, conv: str, values: dict) -> Row:
        return Row(model, conv, values, find(model, conv), find(model, PLAIN))

    if table.rows:
        return [
            row(f'{v["model"]} {v.get("schedule", "")}'.strip(), v['conv'], v)
            for v in table.rows
        ]
    return [
        row(model, conv, {})
        for model in table.configs
        for conv in (PLAIN, *TAGS)
        if find(model, conv)
    ]


def compare_scores(
    table: PaperTable, configs: dict[str, Path], runs: list[Run]
) -> str:
    """Set the scores of a table beside those of finished runs.

    Args:
        table (PaperTable): the table.
        configs (dict[str, Path]): files of the zoo by name.
        runs (list[Run]): of any config.

    Returns:
        str: heading, source, table and footnotes.
    """
    chosen = {
        name: select(run for run in runs if run.config == name)
        for name in {run.config for run in runs}
    }
    listed = rows(table, configs)
    plain = {r.model: r.values for r in listed if r.conv == PLAIN}
    lines, footnotes = [], []
    for row in listed:
        mine = chosen.get(row.config, [])
        changes = mine[0].changes if mine else ()
        footnotes += [f'- {row.config}: {change}\n' for change in changes]
        here = f'`{row.config}`' if row.config else '-'
        here += ' *' if changes else ''
        twins = chosen.get(row.plain, [])
        if twins and twins[0].changes != changes:
            twins = []  # a gain over another recipe says nothing
        for cells in _figures(table, row, plain.get(row.model), mine, twins):
            lines.append([row.model, row.conv, here, *cells, seeds(mine)])
    head = ['Model', 'Conv', 'Config here', 'Metric (%)', 'Paper', 'Ours']
    text = _heading(table) + markdown([*head, 'Difference', 'Seeds'], lines)
    if footnotes:
        text += '\n`*` trained with other settings than those of the config:\n'
        text += '\n' + ''.join(footnotes)
    return text


def _figures(
    table: PaperTable,
    row: Row,
    plain: dict | None,
    mine: list[Run],
    twins: list[Run],
) -> list[tuple]:
    """Cells from the metric to the difference, for each metric of a row.

    Args:
        table (PaperTable): the table.
        row (Row): of it.
        plain (dict | None): what is published of the plain network.
        mine (list[Run]): ours.
        twins (list[Run]): ours of the plain network.
    """
    found = []
    for column in table.columns:
        metric = column.removesuffix('_gain')
        if metric not in METRICS:
            continue
        heading = METRICS[metric].heading
        paper = row.values.get(column)
        ours, base = scores(mine, metric), scores(twins, metric)
        gain = mean(ours) - mean(base) if ours and base else None
        if column != metric:  # the paper gives the gain alone
            gains = paper
        else:
            away = mean(ours) - paper if ours and paper is not None else None
            theirs = table.text(column, paper)
            found.append((heading, theirs, spread(ours), _signed(away)))
            base = (plain or {}).get(column)
            gains = None if None in (paper, base) else paper - base
        if row.conv != PLAIN and (column == metric or paper is not None):
            away = None if None in (gain, gains) else gain - gains
            theirs = table.text(column, gains)
            own = '-' if gain is None else f'{gain:.2f}'
            found.append((f'{heading}, gain', theirs, own, _signed(away)))
    return found


def _signed(value: float | None) -> str:
    return '-' if value is None else f'{value:+.2f}'


def _heading(table: PaperTable) -> str:
    return (
        f'## {table.title}\n\nPaper: {table.source["paper"]} '
        f'({table.source["where"]}). {table.note}\n\n'
    )


def compare_costs(table: PaperTable, configs: dict[str, Path]) -> str:
    """Count the networks of a table, beside its numbers.

    Args:
        table (PaperTable): a table with ``counted``.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        str: the rows that have a config here; the difference to the plain
        network in brackets.

    Raises:
        InputError: a model cannot be built.
    """
    listed = [row for row in rows(table, configs) if row.config]
    published = {(r.model, r.conv): r.values for r in listed}
    lines = []

    def count(name: str) -> tuple[float, float]:
        how = dict(table.counted)
        operations = how.pop('per_multiply_add')
        params, adds = count_config(configs[name], **how)
        return params / 1e6, adds * operations / 1e9

    def cell(value: float, plain: float, digits: int, own: bool) -> str:
        gain = '' if own else f' ({value - plain:+.{digits}f})'
        return f'{value:.{digits}f}{gain}'

    for row in listed:
        own = row.conv == PLAIN
        theirs = published[row.model, PLAIN]
        line = [row.model, row.conv, f'`{row.config}`']
        pairs = zip(count(row.config), count(row.plain), strict=True)
        columns = ('params', 'gflops')
        for column, pair in zip(columns, pairs, strict=True):
            line.append(cell(*pair, 3, own))
            pair = row.values[column], theirs[column]
            line.append(cell(*pair, table.decimals[column], own))
        lines.append(line)
    head = ['Network', 'Conv', 'Config here', 'Params (M)', 'published']
    return markdown([*head, 'FLOPs (G)', 'published'], lines)
