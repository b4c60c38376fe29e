"""Set the papers' tables beside what was trained here, as Markdown.

Ours comes from finished runs below --runs: the evaluation after the last
step, mean and sample standard deviation over the seeds. "gain" is the
difference to the plain network of the same table. Rows not run show a dash.
--costs counts parameters and operations instead, as the paper of the table
counts: batch norm 4 per element, average pooling too; where it takes a
multiply-add for two operations, so do we. Nothing is trained for that.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

from mmrfa.errors import InputError
from mmrfa.results.published import PaperTable, paper_table, paper_tables
from mmrfa.results.runs import Run, collect_runs
from mmrfa.results.tables import compare_costs, compare_scores, rows
from mmrfa.results.zoo import config_files
from mmrfa.utils.cli import parse_args, run_tool

ROOT = Path(__file__).resolve().parents[2]


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'tables',
        nargs='*',
        metavar='TABLE',
        help=f'default: all of {", ".join(paper_tables())}',
    )
    parser.add_argument(
        '--runs',
        nargs='+',
        metavar='FOLDER',
        help='work dirs, or folders of them (default: work_dirs)',
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        '--costs',
        action='store_true',
        help='parameters and operations instead',
    )
    other.add_argument(
        '--commands',
        action='store_true',
        help='print the commands that produce the rows instead',
    )
    parser.add_argument(
        '--out', metavar='FILE.md', help='write to this file, not the screen'
    )
    args = parse_args(parser, argv)

    tables = [paper_table(name) for name in args.tables]
    tables = tables or list(paper_tables().values())
    configs = config_files(ROOT)
    if args.commands:
        text = commands(tables, configs)
    elif args.costs:
        text = costs(tables, configs, chosen=bool(args.tables))
    else:
        runs, notes = read_runs(args.runs, configs)
        text = '\n'.join(compare_scores(t, configs, runs) for t in tables)
        if notes:
            text += '\nNot counted:\n\n'
            text += ''.join(f'- {note}\n' for note in notes)
    if args.out is None:
        print(text, end='')
    else:
        write(text, Path(args.out))


def read_runs(
    folders: list[str] | None, configs: dict[str, Path]
) -> tuple[list[Run], list[str]]:
    """Collect the runs.

    Args:
        folders (list[str] | None): None takes ``work_dirs``, which need not
            exist; each folder given must hold a finished run.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        tuple[list[Run], list[str]]: the runs, and why others do not count.

    Raises:
        InputError: a folder without such a run.
    """
    runs, notes = [], []
    for folder in folders or ['work_dirs']:
        found, left = collect_runs(Path(folder), configs)
        if folders and not found:
            reason = left[0] if left else 'no vis_data/scalars.json in it'
            raise InputError(
                f'--runs {folder}: expected a finished training run, found '
                f'none ({reason})'
            )
        runs += [run for run in found if run not in runs]
        notes += left
    return runs, notes


def costs(
    tables: list[PaperTable], configs: dict[str, Path], chosen: bool
) -> str:
    """Count the networks of the tables; those without costs must not be
    chosen by name."""
    for table in tables:
        if chosen and table.counted is None:
            raise InputError(
                f'--costs: expected a table with costs, got {table.name}, '
                'which has none'
            )
    return '\n'.join(
        f'## {table.title}\n\n{compare_costs(table, configs)}'
        for table in tables
        if table.counted
    )


def commands(tables: list[PaperTable], configs: dict[str, Path]) -> str:
    """Write the command that trains each row.

    Args:
        tables (list[PaperTable]): the tables.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        str: a shell script, a comment before each command.
    """
    text = '# Other seeds: change the number in both places.\n'
    for table in tables:
        text += f'\n# {table.title}\n'
        listed = {None}
        for row in rows(table, configs):
            text += f'# {row.model}, {row.conv}'
            text += '\n' if row.config else ': no config here\n'
            for name in (row.plain, row.config):
                if name not in listed:
                    text += command(configs[name]) + '\n'
            listed |= {row.plain, row.config}
    return text


def command(path: Path) -> str:
    """The command that trains a config on the GPUs that its name says."""
    gpus = re.search(r'_(\d+)xb\d+', path.stem)
    gpus = int(gpus[1]) if gpus else 8  # OpenMMLab's 1x
    path = path.relative_to(ROOT)
    start = f'python tools/train.py {path}'
    if gpus > 1:
        start = f'bash tools/dist_train.sh {path} {gpus}'
    return (
        f'{start} --work-dir work_dirs/{path.stem}/seed0 '
        '--cfg-options randomness.seed=0'
    )


def write(text: str, path: Path) -> None:
    """Write a file in one step: whole or not at all."""
    if not path.parent.is_dir():
        raise InputError(f'--out {path}: expected a folder {path.parent}')
    if path.is_dir():
        raise InputError(f'--out {path}: expected a file, got a folder')
    with tempfile.NamedTemporaryFile(
        'w', encoding='utf-8', dir=path.parent, delete=False
    ) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


if __name__ == '__main__':
    sys.exit(run_tool(main))
