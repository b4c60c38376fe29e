"""Set the papers' tables beside what was trained here, as Markdown.

Ours comes from finished runs below --runs and from the rows that
tools/train_study.py leaves: the evaluation after the last step, mean and
sample standard deviation over the seeds. "gain" is the difference to the
plain network of the same table. Rows not run show a dash.
--costs counts parameters and operations instead, as the paper of the table
counts: batch norm 4 per element, average pooling too; where it takes a
multiply-add for two operations, so do we. Nothing is trained for that.
"""

import argparse
import sys
from pathlib import Path

from mmrfa.checkpoints.writing import write_whole
from mmrfa.engine.cli import parse_args, run_tool
from mmrfa.errors import InputError
from mmrfa.openmmlab import import_package
from mmrfa.results.published import PaperTable, paper_table, paper_tables
from mmrfa.results.records import as_runs
from mmrfa.results.runs import Run, collect_runs
from mmrfa.results.tables import compare_costs, compare_scores, rows
from mmrfa.results.zoo import config_files, processes_of

ROOT = Path(__file__).resolve().parents[2]


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    import_package('mmengine.logging')
    from mmengine.logging import MMLogger

    # MMEngine logs the use of MMRFA_DATA_ROOT to where the tables go.
    MMLogger.get_current_instance().setLevel('WARNING')
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
        help='work dirs, or folders of them (default: work_dirs, and the '
        'rows of results/runs.csv)',
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
    out = args.out and Path(args.out)
    if out and not out.parent.is_dir():
        raise InputError(f'--out {out}: expected a folder {out.parent}')
    if out and out.is_dir():
        raise InputError(f'--out {out}: expected a file, got a folder')
    tables = [paper_table(name) for name in args.tables]
    tables = tables or list(paper_tables().values())
    configs = config_files(ROOT)
    if args.commands:
        text = commands(tables, configs)
    elif args.costs:
        counted = [table for table in tables if table.counted]
        if args.tables and counted != tables:
            known = [t.name for t in paper_tables().values() if t.counted]
            raise InputError(
                f'--costs: expected tables out of {", ".join(known)}, got '
                f'{", ".join(args.tables)}'
            )
        text = '\n'.join(
            f'## {table.title}\n\n{compare_costs(table, configs)}'
            for table in counted
        )
    else:
        runs, notes = read_runs(args.runs, configs)
        text = '\n'.join(compare_scores(t, configs, runs) for t in tables)
        if notes:
            text += '\nNot counted:\n\n'
            text += ''.join(f'- {note}\n' for note in notes)
    if out is None:
        print(text, end='')
    else:
        write_whole(text.encode(), out)


def read_runs(
    folders: list[str] | None, configs: dict[str, Path]
) -> tuple[list[Run], list[str]]:
    """Collect the runs.

    Args:
        folders (list[str] | None): None takes ``work_dirs`` and ``results``,
            which need not exist; each folder given must hold a finished run.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        tuple[list[Run], list[str]]: the runs, and why others do not count.

    Raises:
        InputError: a folder without such a run.
    """
    notes = []
    runs = [] if folders else as_runs(Path('results'), configs)
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


def commands(tables: list[PaperTable], configs: dict[str, Path]) -> str:
    """Write the command that trains each row.

    Args:
        tables (list[PaperTable]): the tables.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        str: a shell script, a comment before each command; none twice.
    """
    text = '# Other seeds: change the number in both places.\n'
    listed = {None}
    for table in tables:
        text += f'\n# {table.title}\n'
        for row in rows(table, configs):
            text += f'# {row.model}, {row.conv}'
            text += '\n' if row.config else ': no config here\n'
            for name in (row.plain, row.config):
                if name not in listed:
                    text += command(configs[name]) + '\n'
                listed.add(name)
    return text


def command(path: Path) -> str:
    """The command that trains a config on the GPUs that its name says."""
    gpus = processes_of(path.stem)
    path = path.relative_to(ROOT)
    start = f'python tools/train.py {path}'
    if gpus > 1:
        start = f'bash tools/dist_train.sh {path} {gpus}'
    return (
        f'{start} --work-dir work_dirs/{path.stem}/seed0 '
        '--cfg-options randomness.seed=0'
    )


if __name__ == '__main__':
    sys.exit(run_tool(main))
