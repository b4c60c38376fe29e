"""The figures of the studies."""

from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

from mmrfa.checkpoints.writing import written_aside
from mmrfa.results.pictures import median_seed, strips
from mmrfa.results.records import (
    Record,
    curve,
    read_kept_scalars,
    scalars_file,
)
from mmrfa.results.runs import METRICS
from mmrfa.results.statistics import Difference, difference
from mmrfa.results.studies import Study, twins
from mmrfa.results.zoo import PLAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = 'differences', 'curves', 'costs'
PREDICTIONS = 'predictions'


def figures(study: Study, records: list[Record]) -> list[str]:
    """The kinds of figures that a study has."""
    shown = median_seed(study, records) is not None
    return [*FIGURES, *[PREDICTIONS] * shown]


def figure_of(study: Study, kind: str) -> str:
    """Where a figure lies, from the folder of the results."""
    return f'figures/{study.name}-{kind}.png'


def differences_to_plain(
    study: Study, records: list[Record]
) -> dict[str, Difference]:
    """Of each form that has common seeds with its plain twin."""
    return {
        form: found
        for form, others in twins(study).items()
        for other in others[:1]
        if (found := difference(records, study.name, form, other))
    }


def draw(
    study: Study,
    records: list[Record],
    folder: Path,
    steps: dict | None = None,
) -> None:
    """Draw the figures of a study.

    Args:
        study (Study): the study.
        records (list[Record]): rows of any study.
        folder (Path): of the results.
        steps (dict | None): of the study, from ``page.read_steps``.
    """
    import matplotlib.pyplot as plt

    if PREDICTIONS in figures(study, records):
        draw_predictions(study, records, folder)
    by_form = {
        form: [r for r in records if (r.study, r.form) == (study.name, form)]
        for form in study.forms
    }
    by_form = {form: each for form, each in by_form.items() if each}
    costs = costs_of(by_form, steps)
    for kind in FIGURES:
        count = len(costs) if kind == 'costs' else 1
        size = 7 if count == 1 else 5 * count, 4.5
        figure, panels = plt.subplots(
            1, count, figsize=size, sharey=True, squeeze=False
        )
        axes = panels[0, 0]
        if kind == 'differences':
            draw_differences(axes, study, records)
        elif kind == 'curves':
            curves = {
                form: [
                    curve(
                        read_kept_scalars(scalars_file(folder, *record.key)),
                        study.metric,
                    )
                    for record in each
                ]
                for form, each in by_form.items()
            }
            draw_curves(axes, study, curves)
        else:
            for panel, (name, cost) in zip(panels[0], costs.items()):
                draw_costs(panel, name, cost, by_form)
            axes.set_ylabel(
                f'{METRICS[study.metric].heading} ({study.scored}), %'
            )
            axes.legend(fontsize=8)
        figure.suptitle(study.title, fontsize=10)
        figure.tight_layout()
        with written_aside(folder / figure_of(study, kind)) as part:
            figure.savefig(part, dpi=120)
        plt.close(figure)


def draw_differences(
    axes: 'Axes', study: Study, records: list[Record]
) -> None:
    """Every seed's difference to the plain twin, mean and 95 % interval."""
    found = differences_to_plain(study, records)
    for place, each in enumerate(found.values()):
        axes.plot(each.values, [place] * len(each.values), 'o', ms=4, c='0.6')
        width = each.half_width or 0
        axes.errorbar(each.mean, place, xerr=width, fmt='D', c='C0', capsize=4)
    axes.axvline(0, c='k', lw=0.8)
    axes.set_yticks(range(len(found)), found)
    axes.invert_yaxis()
    metric = METRICS[study.metric].heading
    axes.set_xlabel(
        f'{metric} ({study.scored}) less that of the plain twin of the same '
        'seed,\npoints: seeds, mean, 95 % interval'
    )


def draw_curves(
    axes: 'Axes', study: Study, curves: dict[str, list[dict[int, float]]]
) -> None:
    """Mean over the seeds of every form after each validation, and spread.

    Args:
        axes (Axes): to draw on.
        study (Study): the study.
        curves (dict): of each form, a curve of each seed: score by step.
    """
    for form, each in curves.items():
        steps = sorted(set.intersection(*map(set, each)))
        means = [mean(curve[step] for curve in each) for step in steps]
        spreads = [_spread([curve[step] for curve in each]) for step in steps]
        (line,) = axes.plot(steps, means, label=form)
        low, high = (
            [m + sign * s for m, s in zip(means, spreads)] for sign in (-1, 1)
        )
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.1)
    axes.set_xlabel('evaluated after step, or epoch: mean, deviation of seeds')
    axes.set_ylabel(f'{METRICS[study.metric].heading} on val, %')
    axes.legend(fontsize=8)


def costs_of(
    by_form: dict[str, list[Record]], steps: dict | None
) -> dict[str, dict[str, float]]:
    """What forms cost.

    Args:
        by_form (dict): rows of each form.
        steps (dict | None): of the study, from ``page.read_steps``.

    Returns:
        dict: cost by form, by what it is; time where steps were timed.
    """
    found = {
        'GFLOPs of an image': {
            form: each[0].gflops for form, each in by_form.items()
        }
    }
    timed = {
        form: steps['seconds'][form] * each[0].steps
        for form, each in by_form.items()
        if steps and form in steps['seconds']
    }
    if PLAIN in timed:
        found["time of a training over plain's"] = {
            form: spent / timed[PLAIN] for form, spent in timed.items()
        }
    return found


def draw_costs(
    axes: 'Axes',
    name: str,
    cost: dict[str, float],
    by_form: dict[str, list[Record]],
) -> None:
    """Scores against one of :func:`costs_of`."""
    for form, at in cost.items():
        scores = [record.score for record in by_form[form]]
        error = _spread(scores)
        axes.errorbar(at, mean(scores), error, fmt='o', capsize=3, label=form)
    axes.set_xlabel(f'{name}: mean, deviation of seeds')


def draw_predictions(
    study: Study, records: list[Record], folder: Path
) -> None:
    """Masks of the median seed beside the truth.

    Args:
        study (Study): the study.
        records (list[Record]): rows of any study.
        folder (Path): of the results, with the pictures that runs kept.
    """
    import matplotlib.pyplot as plt

    seed = median_seed(study, records)
    shown = strips(study, seed, records, folder)
    height, width, _ = shown[PLAIN].shape
    size = 2.2 * len(shown), 2.2 * height / width + 0.5
    figure, axes = plt.subplots(1, len(shown), figsize=size)
    for axis, (name, masks) in zip(axes, shown.items()):
        axis.imshow(masks, interpolation='nearest')
        axis.set_title(name, fontsize=9)
        axis.axis('off')
    figure.suptitle(f'{study.title}, test, seed {seed}', fontsize=9)
    figure.tight_layout()
    with written_aside(folder / figure_of(study, PREDICTIONS)) as part:
        figure.savefig(part, dpi=120)
    plt.close(figure)


def _spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
