"""Draw the loss and metric curves of a run from MMEngine's log."""

import argparse
import json
import sys
from pathlib import Path

from mmrfa.checkpoints.writing import check_folder, written_aside
from mmrfa.engine.cli import parse_args, run_tool
from mmrfa.errors import InputError

# Of what matplotlib draws.
SUFFIXES = '.png .jpg .jpeg .pdf .svg .eps .ps .tif .tiff .webp'.split()


def main(argv: list[str] | None = None) -> None:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', help='work dir of the run')
    parser.add_argument(
        '--metrics',
        nargs='+',
        default=['mIoU', 'coco/bbox_mAP', 'pascal_voc/mAP', 'accuracy/top1'],
        help='which validation metrics, where the log has them',
    )
    parser.add_argument('--out', help='picture (default: WORK_DIR/curves.png)')
    args = parse_args(parser, argv)
    out = Path(args.out or Path(args.work_dir) / 'curves.png')
    if out.suffix.lower() not in SUFFIXES or out.is_dir():
        raise InputError(
            f'--out: expected a file that ends in {", ".join(SUFFIXES)}, got '
            f'{out}'
        )
    losses, metrics = read_curves(Path(args.work_dir), args.metrics)
    check_folder(out.parent)
    draw_curves(losses, metrics, out)
    print(f'curves: {out}')


def read_curves(
    work_dir: Path, wanted: list[str]
) -> tuple[list[tuple], dict[str, list[tuple]]]:
    """Read the newest training log of a work dir.

    Args:
        work_dir (Path): as given to ``tools/train.py``.
        wanted (list[str]): names of validation metrics.

    Returns:
        tuple: ``(step, loss)`` pairs, and for each metric that the log has
        its ``(step, value)`` pairs. A step is what the run counts, iterations
        or epochs.

    Raises:
        InputError: no training log in that folder, or a damaged one.
    """
    files = sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True)
    for file in files:
        records = _records(file)
        losses = _points(records, 'loss')
        if losses:
            metrics = {name: _points(records, name) for name in wanted}
            return losses, {k: v for k, v in metrics.items() if v}
    raise InputError(
        f'work dir: expected */vis_data/scalars.json with losses in '
        f'{work_dir}, found {len(files)} logs without any'
    )


def _points(records: list[dict], name: str) -> list[tuple]:
    return [
        (record['step'], record[name])
        for record in records
        if _is_number(record.get('step')) and _is_number(record.get(name))
    ]


def _is_number(value: object) -> bool:
    # Of whole numbers only such that can be drawn.
    return isinstance(value, float) or (
        isinstance(value, int) and abs(value) < 2**63
    )


def _records(file: Path) -> list[dict]:
    if not file.is_file():
        raise InputError(f'{file}: expected a file, got a folder or pipe')
    lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(dict(json.loads(line)))
        except (TypeError, ValueError, RecursionError) as error:
            if number < len(lines):  # the last one may still be written
                raise InputError(
                    f'{file}: expected JSON in line {number}, got '
                    f'{line[:40]!r}'
                ) from error
    return records


def draw_curves(
    losses: list[tuple], metrics: dict[str, list[tuple]], out: Path
) -> None:
    """Draw the loss, and beside it each metric.

    Args:
        losses (list[tuple]): pairs of :func:`read_curves`.
        metrics (dict): pairs of :func:`read_curves`, by name.
        out (Path): picture to write.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    curves = {'training loss': losses, **metrics}
    figure, axes = plt.subplots(
        1, len(curves), figsize=(4.5 * len(curves), 3.2), squeeze=False
    )
    for axis, (name, points) in zip(axes[0], curves.items()):
        axis.plot(*zip(*points), marker='.')
        axis.set(title=name, xlabel='step')
        axis.grid(alpha=0.3)
    figure.tight_layout()
    with written_aside(out) as part:
        figure.savefig(part, dpi=120)
    plt.close(figure)


if __name__ == '__main__':
    sys.exit(run_tool(main))
