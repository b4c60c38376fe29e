"""The published numbers of ``mmrfa/data/paper_tables.yml``."""

from dataclasses import dataclass
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
        columns (list[str]): keys of a row; ``model`` and ``conv`` come first.
        headings (dict[str, str]): column heading, with unit, by key.
        decimals (dict[str, int]): digits behind the point, by key.
        rows (list[dict]): values by column; None where none is published.
    """

    name: str
    title: str
    source: dict[str, str]
    note: str
    columns: list[str]
    headings: dict[str, str]
    decimals: dict[str, int]
    rows: list[dict[str, Value]]

    def row(self, model: str, conv: str) -> dict[str, Value]:
        """Find the row of a model and an operator.

        Args:
            model (str): as the table writes it, for instance 'ResNet-18'.
            conv (str): 'plain' or the operator.

        Returns:
            dict: values by column.

        Raises:
            InputError: no such row.
        """
        for row in self.rows:
            if (row['model'], row['conv']) == (model, conv):
                return row
        raise InputError(
            f'table {self.name}: expected one of its rows, got {model} with '
            f'{conv}'
        )

    def text(self, column: str, value: Value) -> str:
        """Write a value with the digits of its column, None as a dash."""
        if value is None:
            return '-'
        if column in self.decimals:
            return f'{value:.{self.decimals[column]}f}'
        return str(value)


def load_paper_tables() -> dict[str, PaperTable]:
    """Read all tables.

    Returns:
        dict[str, PaperTable]: by name, in the order of the file.
    """
    import yaml  # comes with MMEngine

    file = resources.files('mmrfa').joinpath('data/paper_tables.yml')
    tables = yaml.safe_load(file.read_text(encoding='utf-8'))['tables']
    return {
        name: PaperTable(
            name=name,
            **{
                **table,
                'rows': [
                    dict(zip(table['columns'], row, strict=True))
                    for row in table['rows']
                ],
            },
        )
        for name, table in tables.items()
    }


def paper_table(name: str) -> PaperTable:
    """Read one table.

    Args:
        name (str): its key in the data file.

    Returns:
        PaperTable: the table.

    Raises:
        InputError: no table of that name.
    """
    tables = load_paper_tables()
    if name not in tables:
        raise InputError(
            f'paper table: expected one of {", ".join(tables)}, got {name!r}'
        )
    return tables[name]
