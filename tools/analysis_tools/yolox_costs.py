"""Count YOLOX with the operators and without, beside the paper's YOLOv5.

At 640 x 640 and with 80 classes, as the paper's toolbox counts: what
`get_flops.py --paper-table` counts, times two, since YOLOv5 takes a
multiply-add for two operations. In brackets: the difference to plain.
"""

import argparse
import re
import sys
from pathlib import Path

from mmrfa.errors import InputError
from mmrfa.utils.cli import parse_args, run_tool
from mmrfa.utils.config import import_scope, load_config
from mmrfa.utils.flops import count
from mmrfa.utils.paper_tables import paper_table
from mmrfa.utils.run import build_model

ZOO = Path(__file__).resolve().parents[2] / 'configs' / 'yolox'
SIZES = ('nano', 'tiny', 's')
CONVS = {'plain': '', 'RFAConv': '-rfa', 'RFCAConv': '-rfca'}
PUBLISHED = (
    ('voc0712', 'YOLOv5n'),
    ('voc0712', 'YOLOv5s'),
    ('coco', 'YOLOv5n'),
)
BLOCK = re.compile('(<!-- costs -->\n).*(<!-- end of costs -->)', re.DOTALL)


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
        '--write',
        metavar='FILE.md',
        help='put the table between the marks <!-- costs --> and '
        '<!-- end of costs --> of this file',
    )
    args = parse_args(parser, argv)
    if args.write is None:
        print(table())
        return
    try:
        text = Path(args.write).read_text(encoding='utf-8')
    except (OSError, UnicodeError) as error:
        raise InputError(f'--write {args.write}: {error}') from error
    if not BLOCK.search(text):
        raise InputError(
            f'--write {args.write}: expected the marks <!-- costs --> and '
            '<!-- end of costs -->, each on a line, found none'
        )
    rows = table()
    text = BLOCK.sub(lambda found: f'{found[1]}{rows}\n{found[2]}', text)
    Path(args.write).write_text(text, encoding='utf-8')


def table() -> str:
    """Count all networks.

    Returns:
        str: a Markdown table.
    """
    lines = [
        '| Detector | Conv | Params (M) | FLOPs (G) |',
        '| --- | --- | --- | --- |',
    ]
    for size in SIZES:
        rows = {conv: costs(size, conv) for conv in CONVS}
        lines += _lines(f'YOLOX-{size}', rows, (3, 2))
    for name, model in PUBLISHED:
        rows = {
            row['conv']: (row['params'], row['gflops'])
            for row in paper_table(name).rows
            if row['model'] == model and row['conv'] in CONVS
        }
        lines += _lines(f"{model}, paper's {name} table", rows, (1, 1))
    return '\n'.join(lines)


def costs(size: str, conv: str) -> tuple[float, float]:
    """Count one network.

    Args:
        size (str): 'nano', 'tiny' or 's'.
        conv (str): 'plain' or an operator.

    Returns:
        tuple[float, float]: parameters in millions, operations in 10^9.
    """
    name = f'yolox_{size}{CONVS[conv]}_8xb8-300e_coco.py'
    config = load_config(str(ZOO / name))
    import_scope(config)
    params, flops = count(build_model(config), (3, 640, 640), True)
    return params / 1e6, 2 * flops / 1e9


def _lines(model: str, rows: dict, digits: tuple[int, int]) -> list[str]:
    lines = []
    for conv, values in rows.items():
        cells = [model, conv]
        for value, plain, n in zip(values, rows['plain'], digits, strict=True):
            gain = '' if conv == 'plain' else f' ({value - plain:+.{n}f})'
            cells.append(f'{value:.{n}f}{gain}')
        lines.append(f'| {" | ".join(cells)} |')
    return lines


if __name__ == '__main__':
    sys.exit(run_tool(main))
