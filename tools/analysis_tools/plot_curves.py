"""Draw the loss and metric curves of a run from MMEngine's log."""

import argparse
import sys
from pathlib import Path

from mmrfa.checkpoints.writing import check_folder, written_aside
from mmrfa.engine.cli import parse_args, run_tool
from mmrfa.errors import InputError
from mmrfa.results.runs import (
    CONFIG,
    NO_METRICS,
    SCALARS,
    read_config,
    read_scalars,
)

USUAL = 'mIoU', 'coco/bbox_mAP', 'pascal_voc/mAP', 'accuracy/top1'
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
        help=f'which validation metrics (default: those of {", ".join(USUAL)} '
        'that the log has)',
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
    work_dir: Path, wanted: list[str] | None
) -> tuple[list[tuple], dict[str, list[tuple]]]:
    """Read the newest training of a work dir, over all its starts.

    Where a start went back to a checkpoint, what it logged again stands for
    what was there.

    Args:
        work_dir (Path): as given to ``tools/train.py``.
        wanted (list[str] | None): names of validation metrics. None: of
            :data:`USUAL` those that the log has.

    Returns:
        tuple: ``(step, loss)`` pairs, and for each metric its ``(step,
        value)`` pairs. A step is what the run counts, iterations or epochs.

    Raises:
        InputError: no training log in that folder, or a damaged one, or one
            without a metric that is wanted.
    """
    files = sorted(work_dir.glob(f'*/{SCALARS}'))
    run: dict[str, dict] = {}
    for file in files:
        records = read_scalars(file)
        points = _points(records)
        if 'loss' not in points:  # of a test
            continue
        if not _is_resumed(file):
            run = {}
        # Evaluations count epochs where training lines name them.
        epochs = [r['epoch'] for r in records if 'loss' in r and 'epoch' in r]
        begun = min(points['loss'])
        epoch = min(filter(_is_number, epochs), default=begun)
        for name, values in run.items():
            end = begun if name == 'loss' else epoch
            run[name] = {at: v for at, v in values.items() if at < end}
        for name, values in points.items():
            run.setdefault(name, {}).update(values)
    if not run:
        raise InputError(
            f'work dir: expected */{SCALARS} with losses in {work_dir}, '
            f'found {len(files)} logs without any'
        )
    losses = [*run.pop('loss').items()]
    missing = [name for name in wanted or () if name not in run]
    if missing:
        raise InputError(
            '--metrics: expected some that the log has, '
            f'{", ".join(sorted(run)) or "none"}, got {", ".join(missing)}'
        )
    return losses, {
        name: [*run[name].items()] for name in wanted or USUAL if name in run
    }


def _is_resumed(file: Path) -> bool:
    """Whether the start that wrote a log went on with a run."""
    config = file.parents[1] / CONFIG
    return config.is_file() and bool(read_config(config).get('resume'))


def _points(records: list[dict]) -> dict[str, dict]:
    """The loss by step, and so each metric."""
    found: dict[str, dict] = {}
    for record in records:
        step = record.get('step')
        if not _is_number(step):
            continue
        names = {'loss'} if 'loss' in record else record.keys() - NO_METRICS
        for name in names:
            if _is_number(record[name]):
                found.setdefault(name, {})[step] = record[name]
    return found


def _is_number(value: object) -> bool:
    # Of whole numbers only such that can be drawn.
    return isinstance(value, float) or (
        isinstance(value, int) and abs(value) < 2**63
    )


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
