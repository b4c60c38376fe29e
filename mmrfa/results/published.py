"""The published numbers of ``published.yml``."""

from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from mmrfa.errors import InputError

Value = str | float | int | None


@dataclass(frozen=True)
class PaperTable:
    """One published table.

    Attributes:
        name (str): its key in the data file.
        title (str): what it is about.
        source (dict): ``paper`` (address) and ``where`` in it.
        note (str): what one must know to read it.
        decimals (dict[str, int]): digits behind the point, by column.
        columns (list[str]): keys of a row; ``model`` and ``conv`` come first.
        rows (list[dict]): values by column; None where none is published.
        configs (dict[str, str]): of a model, with its schedule where the
            table has several, the name of its config here; ``{}`` stands
            where the operator goes.
        counted (dict[str, int] | None): how the source counts operations:
            operations ``per_multiply_add``, ``size`` of the image in pixels
            and ``seen``, see :func:`mmrfa.results.costs.count_config`; None
            where it does not.
    """

    name: str
    title: str
    source: dict[str, str]
    note: str
    decimals: dict[str, int]
    columns: list[str]
    rows: list[dict[str, Value]]
    configs: dict[str, str] = field(default_factory=dict)
    counted: dict[str, int] | None = None

    def text(self, column: str, value: float | None) -> str:
        """Write a value with the digits of its column, None as a dash."""
        if value is None:
            return '-'
        return f'{value:.{self.decimals[column]}f}'


@cache
def paper_tables() -> dict[str, PaperTable]:
    """Read all tables.

    Returns:
        dict[str, PaperTable]: by name, in the order of the file; shared, not
        to be changed.
    """
    import yaml  # comes with MMEngine

    file = resources.files('mmrfa.results').joinpath('published.yml')
    found = {}
    tables = yaml.safe_load(file.read_text(encoding='utf-8'))['tables']
    for name, table in tables.items():
        table['rows'] = [
            dict(zip(table['columns'], row, strict=True))
            for row in table['rows']
        ]
        found[name] = PaperTable(name=name, **table)
    return found


def paper_table(name: str) -> PaperTable:
    """Find one table.

    Args:
        name (str): its key in the data file.

    Returns:
        PaperTable: the table.

    Raises:
        InputError: no table of that name.
    """
    tables = paper_tables()
    if name not in tables:
        raise InputError(
            f'paper table: expected one of {", ".join(tables)}, got {name!r}'
        )
    return tables[name]
