"""The page of our results: tables from ``runs.csv`` and the figures beside."""

from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

from mmrfa.results.records import (
    Record,
    curve,
    read_kept_scalars,
    scalars_file,
)
from mmrfa.results.runs import METRICS
from mmrfa.results.statistics import (
    Difference,
    difference,
    probability_of_improvement,
    scores_by_seed,
)
from mmrfa.results.studies import Study, find_study, study_names
from mmrfa.results.tables import markdown, spread
from mmrfa.results.zoo import PLAIN, TAGS

START = '<!-- studies: written by scripts/update_results.py -->\n'


def started(records: list[Record], configs: dict[str, Path]) -> list[Study]:
    """The studies that have a row, in the order of ``studies.yml``.

    Args:
        records (list[Record]): rows.
        configs (dict[str, Path]): files of the zoo by name.
    """
    there = {record.study for record in records}
    return [
        find_study(name, configs) for name in study_names() if name in there
    ]


def render(text: str, studies: list[Study], records: list[Record]) -> str:
    """Put what is known of the studies behind the mark of the page.

    Args:
        text (str): of the page; all behind the mark is replaced.
        studies (list[Study]): to show.
        records (list[Record]): rows of any study.

    Returns:
        str: the page.
    """
    parts = [text.partition(START)[0] + START]
    for study in studies:
        mine = [r for r in records if r.study == study.name]
        planned = sum(form.seeds for form in study.forms.values())
        hours = sum(r.seconds for r in mine) / 3600
        parts.append(
            f'\n## {study.title}\n\n'
            f'{len(mine)} of {planned} runs, {hours:.1f} h in all, '
            f'{mine[0].cpu}, {_threads(mine)} each; '
            f'{_joined(r.versions for r in mine)}; commits '
            f'{_joined(r.commit for r in mine)}. '
            f'`python tools/train_study.py {study.name}` trains it.\n\n'
            + table(study, records)
        )
        told = detectable(study, records)
        if told:
            pictures = ''.join(
                f'![{kind}]({figure(study, kind)}) ' for kind in FIGURES
            )
            parts.append(f'\n{told}\n\n{pictures.strip()}\n')
    wide = across(studies, records)
    if wide:
        parts.append(
            '\n## Across the studies\n\nHow likely a run of the form is above '
            'one of its plain twin, on the test split of a study drawn at '
            'random (probability of improvement, 95 % interval by stratified '
            'bootstrap).\n\n' + wide
        )
    return ''.join(parts)


def across(studies: list[Study], records: list[Record]) -> str | None:
    """How likely forms are above plain, over all studies that test.

    Args:
        studies (list[Study]): that have a row.
        records (list[Record]): rows of any study.

    Returns:
        str | None: Markdown; None where no study has a form beside plain.
    """
    pairs = {}
    for study in studies:
        plain = scores_by_seed(records, study.name, PLAIN)
        for form in study.forms if plain and study.scored == 'test' else ():
            mine = scores_by_seed(records, study.name, form)
            if form in TAGS and mine:
                pair = [*mine.values()], [*plain.values()]
                pairs.setdefault(form, []).append(pair)
    rows = [
        [form, len(each), '{:.2f} | {:.2f} to {:.2f}'.format(*found)]
        for form, each in pairs.items()
        if (found := probability_of_improvement(each))
    ]
    head = ['Form', 'Studies', 'Probability', '95 % interval']
    return markdown(head, rows) if rows else None


def _threads(records: list[Record]) -> str:
    counts = sorted({record.threads for record in records})
    return f'{_joined(map(str, counts))} thread{"s" * (counts != [1])}'


def _joined(texts: Iterable[str]) -> str:
    return ' and '.join(dict.fromkeys(texts))


FIGURES = 'differences', 'curves', 'costs'


def figure(study: Study, kind: str) -> str:
    """Where a figure lies, from the folder of the results."""
    return f'figures/{study.name}-{kind}.png'


def draw(study: Study, records: list[Record], folder: Path) -> None:
    """Draw the figures of a study, once it has a twin of two seeds.

    Args:
        study (Study): the study.
        records (list[Record]): rows of any study.
        folder (Path): of the results.
    """
    if detectable(study, records) is None:
        return
    (folder / 'figures').mkdir(exist_ok=True)
    draw_differences(study, records, folder / figure(study, 'differences'))
    curves = {}
    for record in records:
        if record.study == study.name:
            lines = read_kept_scalars(scalars_file(folder, *record.key))
            found = curve(lines, study.metric)
            curves.setdefault(record.form, []).append(found)
    draw_costs(study, records, folder / figure(study, 'costs'))
    ordered = {form: curves[form] for form in study.forms if form in curves}
    draw_curves(study, ordered, folder / figure(study, 'curves'))


def twins(study: Study) -> dict[str, list[str]]:
    """What each form of a study is compared with.

    Args:
        study (Study): the study.

    Returns:
        dict[str, list[str]]: the plain form of the same network; of a form
        that sets something besides its operator, the operator as it is; of
        RFAConv also the controls, other plain forms.
    """
    found = {}
    for form in study.forms:
        conv, _, rest = form.partition(', ')
        operator = conv.split()[0]
        plain = f'{PLAIN}, {rest}' if rest else PLAIN
        others = [plain] if form != plain else []
        if operator != conv and operator not in (PLAIN, form):
            others.append(operator)
        if form == 'RFAConv':
            others += [f for f in study.forms if f.startswith(f'{PLAIN} ')]
        found[form] = [other for other in others if other in study.forms]
    return found


def table(study: Study, records: list[Record]) -> str:
    """Scores of a study, and differences of the same seeds.

    Args:
        study (Study): the study.
        records (list[Record]): rows of any study.

    Returns:
        str: Markdown; a form without a run shows dashes.
    """
    rows = []
    for form, others in twins(study).items():
        scores = scores_by_seed(records, study.name, form)
        mine = [r for r in records if (r.study, r.form) == (study.name, form)]
        line = [form, len(scores), spread([*scores.values()])]
        line += [f'{r.params / 1e6:.3f}' for r in mine[:1]] or ['-']
        line += [f'{r.gflops:.3f}' for r in mine[:1]] or ['-']
        for other in others or [None]:
            found = other and difference(records, study.name, form, other)
            rows.append([*line, other or '-', *told(found or None)])
            line = [''] * len(line)
    metric = f'{METRICS[study.metric].heading}, {study.scored} (%)'
    head = ['Form', 'Seeds', metric, 'Params (M)', 'GFLOPs', 'Against']
    head += ['Difference', '95 % interval', 'Above', 'Says']
    return markdown(head, rows)


def told(found: Difference | None) -> list[str]:
    """Cells of a difference."""
    if found is None:
        return ['-'] * 4
    interval = '-'
    if found.interval is not None:
        interval = '{:+.2f} to {:+.2f}'.format(*found.interval)
    count = f'{found.wins} of {len(found.values)}'
    return [f'{found.mean:+.2f}', interval, count, found.verdict]


def detectable(study: Study, records: list[Record]) -> str | None:
    """What difference the seeds of a study could have shown, as a sentence.

    Args:
        study (Study): the study.
        records (list[Record]): rows of any study.

    Returns:
        str | None: None before any form has two seeds beside its twin.
    """
    widths = [
        found.half_width
        for form, others in twins(study).items()
        for other in others[:1]
        if (found := difference(records, study.name, form, other))
        and found.half_width is not None
    ]
    if not widths:
        return None
    return (
        f'Differences below about {mean(widths):.1f} points could not be told '
        'from none with these seeds (mean half-width of the intervals).'
    )


def draw_differences(study: Study, records: list[Record], path: Path) -> None:
    """Draw every seed's difference to the plain twin, and the intervals.

    Args:
        study (Study): with at least one difference.
        records (list[Record]): rows of any study.
        path (Path): the picture.
    """
    import matplotlib.pyplot as plt

    found = {
        form: each
        for form, others in twins(study).items()
        for other in others[:1]
        if (each := difference(records, study.name, form, other))
    }
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(found) + 1.4))
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
        'seed, points'
    )
    axes.set_title(f'{study.title}: seeds, mean, 95 % interval', fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_costs(study: Study, records: list[Record], path: Path) -> None:
    """Draw the scores against the operations of the networks.

    Args:
        study (Study): the study.
        records (list[Record]): rows of any study.
        path (Path): the picture.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for form in study.forms:
        mine = [r for r in records if (r.study, r.form) == (study.name, form)]
        if not mine:
            continue
        scores = [record.score for record in mine]
        error = stdev(scores) if len(scores) > 1 else 0
        at = mine[0].gflops
        axes.errorbar(at, mean(scores), error, fmt='o', capsize=3, label=form)
    axes.set_xlabel('GFLOPs of an image')
    axes.set_ylabel(f'{METRICS[study.metric].heading} ({study.scored}), %')
    axes.set_title(f'{study.title}: mean, deviation of the seeds', fontsize=10)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_curves(
    study: Study, curves: dict[str, list[dict[int, float]]], path: Path
) -> None:
    """Draw the mean curve of validation of every form, with its spread.

    Args:
        study (Study): the study.
        curves (dict): of each form, a curve of each seed: score by step.
        path (Path): the picture.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for form, each in curves.items():
        steps = sorted(set.intersection(*(set(curve) for curve in each)))
        values = np.array([[curve[s] for s in steps] for curve in each])
        (line,) = axes.plot(steps, values.mean(0), label=form)
        if len(values) > 1:
            spread = values.std(0, ddof=1)
            low, high = values.mean(0) - spread, values.mean(0) + spread
            axes.fill_between(
                steps, low, high, color=line.get_color(), alpha=0.1
            )
    axes.set_xlabel('evaluated after step (of epochs: epoch)')
    axes.set_ylabel(f'{METRICS[study.metric].heading} on val, %')
    axes.set_title(
        f'{study.title}: mean of the seeds and deviation', fontsize=10
    )
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
