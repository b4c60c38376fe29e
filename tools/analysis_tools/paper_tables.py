"""Set the papers' tables beside what was trained here, as Markdown.

Ours comes from finished runs below --runs: the evaluation after the last
step, mean and sample standard deviation over the seeds. "gain" is the
difference to the plain network of the same table. Rows not run show a dash.
"""

import argparse
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from mmrfa.errors import InputError
from mmrfa.utils.cli import parse_args, run_tool
from mmrfa.utils.paper_tables import (
    PaperTable,
    load_paper_tables,
    paper_table,
)
from mmrfa.utils.runs import Run, collect_runs, select

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = {
    'plain': '',
    'CAMConv': '-cam',
    'CBAMConv': '-cbam',
    'CAConv': '-ca',
    'RFAConv': '-rfa',
    'RFCBAMConv': '-rfcbam',
    'RFCAConv': '-rfca',
    'AWConv': '-aw',
}
IN1K = '4xb32-100e_in1k'
VOC12 = '4xb4-20k_voc12aug-512x512'
# The config of a model, by table; {} is the place of the operator.
CONFIGS = {
    'imagenet': {
        'ResNet-18': f'resnet18{{}}_{IN1K}',
        'ResNet-34': f'resnet34{{}}_{IN1K}',
    },
    'voc12_segmentation': {
        'DeepLabV3+ R18-D8': f'deeplabv3plus_r18{{}}-d8_{VOC12}',
        'DeepLabV3+ R18-D16': f'deeplabv3plus_r18{{}}-d16_{VOC12}',
        'DeepLabV3+ R50-D8': f'deeplabv3plus_r50{{}}-d8_{VOC12}',
        'DeepLabV3+ R101-D8': f'deeplabv3plus_r101{{}}-d8_{VOC12}',
    },
    'aw': {
        'ResNet-101': f'resnet101{{}}_{IN1K}',
        'Faster R-CNN ResNet-101-FPN': 'faster-rcnn_r101{}_fpn_1x_coco',
    },
    'voc12_segmentation_openmmlab': {
        'DeepLabV3+ R50-D8 20k': f'deeplabv3plus_r50{{}}-d8_{VOC12}',
        'DeepLabV3+ R101-D8 20k': f'deeplabv3plus_r101{{}}-d8_{VOC12}',
    },
    'coco_openmmlab': {
        'Faster R-CNN R50-FPN 1x': 'faster-rcnn_r50{}_fpn_1x_coco',
        'Faster R-CNN R101-FPN 1x': 'faster-rcnn_r101{}_fpn_1x_coco',
    },
}
# The nearest detector here, where the paper's own is of another toolbox.
STAND_INS = {'YOLOv5n': 'nano', 'YOLOv5s': 's', 'YOLOv7-tiny': 'tiny'}
# What MMEngine calls a column, and the factor to the papers' unit.
METRICS = {
    'top1': ('accuracy/top1', 1),
    'top5': ('accuracy/top5', 1),
    'miou': ('mIoU', 1),
    'ap': ('coco/bbox_mAP', 100),
    'ap50': ('coco/bbox_mAP_50', 100),
    'ap75': ('coco/bbox_mAP_75', 100),
    'aps': ('coco/bbox_mAP_s', 100),
    'apm': ('coco/bbox_mAP_m', 100),
    'apl': ('coco/bbox_mAP_l', 100),
}
HEADINGS = (
    'Model',
    'Conv',
    'Config here',
    'Metric',
    'Paper',
    'Ours',
    'Difference',
    'Seeds',
)


@dataclass(frozen=True)
class Row:
    """A row of a paper's table and what stands for it here."""

    model: str
    conv: str
    values: dict
    config: str | None
    plain: str | None
    exact: bool


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
        help=f'default: all of {", ".join(load_paper_tables())}',
    )
    parser.add_argument(
        '--runs',
        nargs='+',
        metavar='FOLDER',
        help='work dirs, or folders of them (default: work_dirs)',
    )
    parser.add_argument(
        '--commands',
        action='store_true',
        help='print the commands that produce the rows instead',
    )
    parser.add_argument(
        '--out', metavar='FILE.md', help='write to this file, not the screen'
    )
    args = parse_args(parser, argv)

    tables = [paper_table(name) for name in args.tables]
    tables = tables or list(load_paper_tables().values())
    if args.commands:
        text = commands(tables)
    else:
        runs, notes = read_runs(args.runs)
        text = '\n'.join(render(table, runs) for table in tables)
        if notes:
            text += '\nNot counted:\n\n'
            text += ''.join(f'- {note}\n' for note in notes)
    if args.out is None:
        print(text, end='')
    else:
        write(text, Path(args.out))


def zoo() -> dict[str, Path]:
    """Configs of the zoo, by name."""
    return {path.stem: path for path in ROOT.glob('configs/*/*.py')}


def rows(table: PaperTable) -> list[Row]:
    """Rows of a table; where a paper's cannot be read, those of the zoo.

    Args:
        table (PaperTable): the table.

    Returns:
        list[Row]: a config of the zoo or none for each.
    """
    configs = zoo()

    def find(model: str, conv: str) -> str | None:
        pattern = CONFIGS.get(table.name, {}).get(model)
        if table.name in ('voc0712', 'coco') and model in STAND_INS:
            pattern = f'yolox_{STAND_INS[model]}{{}}_*_{table.name}'
        if pattern is None or conv not in OPERATORS:
            return None
        name = re.compile(
            re.escape(pattern.format(OPERATORS[conv])).replace(r'\*', '[^_]+')
        )
        return next(filter(name.fullmatch, sorted(configs)), None)

    def row(model: str, conv: str, values: dict) -> Row:
        return Row(
            model=model,
            conv=conv,
            values=values,
            config=find(model, conv),
            plain=find(model, 'plain') if conv != 'plain' else None,
            exact=model not in STAND_INS,
        )

    if table.rows:
        return [
            row(f'{v["model"]} {v.get("schedule", "")}'.strip(), v['conv'], v)
            for v in table.rows
        ]
    own = [
        row(model, conv, {})
        for model in CONFIGS.get(table.name, {})
        for conv in OPERATORS
    ]
    return [row for row in own if row.config]


def read_runs(folders: list[str] | None) -> tuple[list[Run], list[str]]:
    """Collect the runs.

    Args:
        folders (list[str] | None): None takes ``work_dirs``, which need not
            exist; each folder given must hold a finished run.

    Returns:
        tuple[list[Run], list[str]]: the runs, and why others do not count.

    Raises:
        InputError: a folder without such a run.
    """
    runs, notes = [], []
    for folder in folders or ['work_dirs']:
        found, left = collect_runs(Path(folder), zoo())
        if folders and not found:
            reason = left[0] if left else 'no vis_data/scalars.json in it'
            raise InputError(
                f'--runs {folder}: expected a finished training run, found '
                f'none ({reason})'
            )
        runs += [run for run in found if run not in runs]
        notes += left
    return runs, notes


def render(table: PaperTable, runs: list[Run]) -> str:
    """Write a table as Markdown.

    Args:
        table (PaperTable): the paper's.
        runs (list[Run]): of any config.

    Returns:
        str: heading, source, table and footnotes.
    """
    chosen = {
        name: select(run for run in runs if run.config == name)
        for name in {run.config for run in runs}
    }
    plain = {r.model: r.values for r in rows(table) if r.conv == 'plain'}
    lines, footnotes = [], []
    for row in rows(table):
        mine = chosen.get(row.config, [])
        seeds = ', '.join(str('?' if r.seed is None else r.seed) for r in mine)
        for change in mine[:1] and mine[0].changes:
            footnotes.append(f'{row.config}: {change}')
        here = f'`{row.config}`' if row.config else '-'
        if mine and mine[0].changes:
            here += ' *'
        if row.config and not row.exact:
            here += ' (stand-in)'
        for cells in figures(table, row, plain.get(row.model, {}), chosen):
            cells = (row.model, row.conv, here, *cells, seeds or '-')
            lines.append(f'| {" | ".join(cells)} |\n')
    text = f'## {table.title}\n\n'
    text += f'Paper: {table.source["paper"]} ({table.source["where"]}). '
    text += f'{table.note}\n\n'
    text += f'| {" | ".join(HEADINGS)} |\n'
    text += f'|{" --- |" * len(HEADINGS)}\n'
    text += ''.join(lines)
    if footnotes:
        text += '\n`*` trained with other settings than those of the config:\n'
        text += '\n' + ''.join(f'- {note}\n' for note in footnotes)
    return text


def figures(
    table: PaperTable, row: Row, plain: dict, chosen: dict[str, list[Run]]
) -> list[tuple]:
    """Numbers of a row.

    Args:
        table (PaperTable): the paper's.
        row (Row): of it.
        plain (dict): the paper's values of the plain network.
        chosen (dict[str, list[Run]]): runs by config.

    Returns:
        list[tuple]: for each metric the cells from its heading to the
        difference.
    """
    mine = chosen.get(row.config, [])
    twins = chosen.get(row.plain, [])
    if mine and twins and mine[0].changes != twins[0].changes:
        twins = []  # a gain over another recipe says nothing
    found = []

    def add(heading, column, paper, ours, spread='', comparable=True):
        known = comparable and None not in (paper, ours)
        found.append(
            (
                heading,
                table.text(column, paper),
                '-' if ours is None else f'{ours:.2f}{spread}',
                f'{ours - paper:+.2f}' if known else '-',
            )
        )

    for column in table.columns:
        metric = column.removesuffix('_gain')
        if metric not in METRICS:
            continue
        heading = table.headings[column]
        paper = row.values.get(column)
        ours, base = values(mine, metric), values(twins, metric)
        gain = mean(ours) - mean(base) if ours and base else None
        if column != metric:  # the paper gives the gain alone
            if paper is not None:
                add(heading, column, paper, gain)
            continue
        spread = f' ± {stdev(ours):.2f}' if len(ours) > 1 else ''
        average = mean(ours) if ours else None
        add(heading, column, paper, average, spread, row.exact)
        if row.conv != 'plain':
            theirs = None
            if None not in (paper, plain.get(column)):
                theirs = paper - plain[column]
            add(f'{heading}, gain', column, theirs, gain)
    return found


def values(runs: list[Run], column: str) -> list[float]:
    """A metric of each run, in the papers' unit; without those lacking it.

    VOC's metric has ``mAP`` for the mean over the thresholds it was given,
    which is AP only if there are ten.
    """
    key, factor = METRICS[column]
    found = []
    for run in runs:
        metrics = run.metrics
        value = metrics.get(key)
        if value is None and column in ('ap', 'ap50', 'ap75'):
            digits = column.removeprefix('ap')
            value = metrics.get(f'pascal_voc/AP{digits}')
            if column == 'ap' and 'pascal_voc/AP95' in metrics:
                value = metrics.get('pascal_voc/mAP')
        if value is not None:
            found.append(value * factor)
    return found


def commands(tables: list[PaperTable]) -> str:
    """Write the command that trains each row.

    Args:
        tables (list[PaperTable]): the tables.

    Returns:
        str: a shell script, a comment before each command.
    """
    text = '# Other seeds: change the number in both places.\n'
    for table in tables:
        text += f'\n# {table.title}\n'
        listed = {None}
        for row in rows(table):
            text += f'# {row.model}, {row.conv}'
            text += '\n' if row.config else ': no config here\n'
            for name in (row.plain, row.config):
                if name not in listed:
                    text += command(name) + '\n'
            listed |= {row.plain, row.config}
    return text


def command(name: str) -> str:
    """The command that trains a config on the GPUs that its name says."""
    path = zoo()[name].relative_to(ROOT)
    gpus = re.search(r'_(\d+)xb\d+', name)
    gpus = int(gpus[1]) if gpus else 8  # OpenMMLab's 1x
    start = f'python tools/train.py {path}'
    if gpus > 1:
        start = f'bash tools/dist_train.sh {path} {gpus}'
    return (
        f'{start} --work-dir work_dirs/{name}/seed0 '
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
