"""The page of our results: tables from ``runs.csv`` and the figures beside."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from statistics import mean

from mmrfa.errors import InputError
from mmrfa.results.figures import differences_to_plain, figure_of, figures
from mmrfa.results.records import (
    TABLE,
    Record,
    digest,
    read_records,
    used_config,
)
from mmrfa.results.runs import METRICS
from mmrfa.results.statistics import (
    Difference,
    difference,
    probability_of_improvement,
    scores_by_seed,
)
from mmrfa.results.studies import Study, find_study, study_names, twins
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


def check_rows(
    studies: list[Study], records: list[Record], configs: dict[str, Path]
) -> None:
    """Make sure that rows are of the studies as they are.

    Args:
        studies (list[Study]): of :func:`started`.
        records (list[Record]): rows.
        configs (dict[str, Path]): files of the zoo by name.

    Raises:
        InputError: another study, form, metric, split or recipe.
    """
    by_name = {study.name: study for study in studies}
    for record in records:
        study = by_name.get(record.study)
        if study is None:
            raise InputError(
                f'{TABLE}: expected studies out of {", ".join(study_names())},'
                f' got {record.study}'
            )
        form = study.forms.get(record.form)
        if form is None:
            raise InputError(
                f'{TABLE}: expected forms of {study.name} out of '
                f'{"; ".join(study.forms)}, got {record.form}'
            )
        wanted = dict(
            config=form.config,
            options=json.dumps(form.options),
            metric=study.metric,
            scored=study.scored,
            recipe=_recipe(configs[form.config], record.options),
        )
        for name, value in wanted.items():
            if getattr(record, name) != value:
                key = ', '.join(map(str, record.key))
                raise InputError(
                    f'{TABLE}: {key}: expected {name} {value}, as the study '
                    f'says, got {getattr(record, name)}'
                )


@cache
def _recipe(config: Path, options: str) -> str:
    return digest(used_config(config, json.loads(options)))


def read_steps(folder: Path) -> dict[str, dict]:
    """What a training step takes, as ``benchmarks/study_steps.py`` found.

    Args:
        folder (Path): of the results.

    Returns:
        dict[str, dict]: ``seconds`` and ``peak_bytes`` by form, and the
        machine; by study, of those that were timed.

    Raises:
        InputError: a file that is no JSON.
    """
    found = {}
    for file in sorted((folder / 'steps').glob('*.json')):
        try:
            found[file.stem] = json.loads(file.read_text())
        except ValueError as error:
            raise InputError(
                f'{file}: expected what benchmarks/study_steps.py writes, '
                f'got: {error}'
            ) from error
    return found


def read_repeats(folder: Path) -> list[Record]:
    """Rows of runs that were trained once more.

    Args:
        folder (Path): of the results; below it each of ``repeats`` is a
            ``--results`` of ``tools/train_study.py``.

    Returns:
        list[Record]: folder by folder.
    """
    folders = sorted(folder.glob('repeats/*'))
    return [record for each in folders for record in read_records(each)]


def render(
    text: str,
    studies: list[Study],
    records: list[Record],
    steps: dict[str, dict],
    repeats: list[Record],
) -> str:
    """Put what is known of the studies behind the mark of the page.

    Args:
        text (str): of the page; all behind the mark is replaced.
        studies (list[Study]): to show.
        records (list[Record]): rows of any study.
        steps (dict[str, dict]): of :func:`read_steps`.
        repeats (list[Record]): of :func:`read_repeats`.

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
            f'{_joined(r.cpu for r in mine)}, {_threads(mine)} each; '
            f'{_joined(r.versions for r in mine)}; of commit '
            f'{_joined(r.commit for r in mine)}. '
            f'`python tools/train_study.py {study.name}` trains it.\n\n'
            + table(study, records, steps.get(study.name))
            + f'\n{findings(study, records, steps.get(study.name))}\n'
        )
        told = detectable(study, records)
        parts.append(f'\n{told}\n' if told else '')
        pictures = [
            f'![{kind}]({figure_of(study, kind)})'
            for kind in figures(study, records)
        ]
        parts.append(f'\n{" ".join(pictures)}\n')
    wide = across(studies, records)
    if wide:
        parts.append(
            '\n## Across the studies\n\nHow likely a run of the form is above '
            'one of its plain twin, on the test split of a study drawn at '
            'random (probability of improvement, 95 % interval by stratified '
            'bootstrap). Without the study that tunes on.\n\n' + wide
        )
    if repeats:
        parts.append(
            '\n## Trained once more\n\nThe first line of each is the run of '
            'the table, those below it the same config and seed again.\n\n'
            + again(records, repeats)
        )
    return ''.join(parts)


def again(records: list[Record], repeats: list[Record]) -> str:
    """Runs that were repeated, each with its repeats.

    Args:
        records (list[Record]): rows of any study.
        repeats (list[Record]): of :func:`read_repeats`.

    Returns:
        str: Markdown.
    """
    rows = []
    for key in dict.fromkeys(record.key for record in repeats):
        for record in [*records, *repeats]:
            if record.key == key:
                metric = f'{METRICS[record.metric].heading}, {record.scored}'
                score = f'{metric}: {record.score:.2f}'
                rows.append([*key, score, record.cpu, record.commit])
    head = ['Study', 'Form', 'Seed', 'Score (%)', 'Machine', 'Commit']
    return markdown(head, rows)


def across(studies: list[Study], records: list[Record]) -> str | None:
    """How likely forms are above plain, over all studies that test.

    Of networks trained from scratch; what tunes on is another question.

    Args:
        studies (list[Study]): that have a row.
        records (list[Record]): rows of any study.

    Returns:
        str | None: Markdown; None where no study has two seeds of a form and
            of plain.
    """
    pairs = {}
    for study in studies:
        if study.scored != 'test' or study.start_from:
            continue
        plain = scores_by_seed(records, study.name, PLAIN)
        for form in study.forms if plain else ():
            mine = scores_by_seed(records, study.name, form)
            # One run of each has no interval.
            if form in TAGS and min(len(mine), len(plain)) > 1:
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


def table(study: Study, records: list[Record], steps: dict | None) -> str:
    """Scores of a study, what they cost, and differences of the same seeds.

    Args:
        study (Study): the study.
        records (list[Record]): rows of any study.
        steps (dict | None): of the study, from :func:`read_steps`.

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
        line += [
            '-' if ratio is None else f'{ratio:.2f}'
            for ratio in over_plain(form, steps)
        ]
        for other in others or [None]:
            cells = ['-'] * 5
            if other:
                found = difference(records, study.name, form, other)
                planned = min(study.forms[one].seeds for one in (form, other))
                cells = [other, *told(found, planned)]
            rows.append([*line, *cells])
            line = [''] * len(line)
    metric = f'{METRICS[study.metric].heading}, {study.scored} (%)'
    head = ['Form', 'Seeds', metric, 'Params (M)', 'GFLOPs', 'Step', 'Memory']
    head += ['Against', 'Difference', '95 % interval', 'Above', 'Says']
    return markdown(head, rows)


def told(found: Difference | None, planned: int) -> list[str]:
    """Cells of a difference, of so many seeds once all are there."""
    if found is None:
        return ['-'] * 4
    interval = '-'
    if found.interval is not None:
        interval = '{:+.2f} to {:+.2f}'.format(*found.interval)
    count = f'{found.wins} of {len(found.values)}'
    verdict = found.verdict
    if verdict != 'open' and len(found.values) < planned:
        verdict += ' so far'
    return [f'{found.mean:+.2f}', interval, count, verdict]


def over_plain(form: str, steps: dict | None) -> list[float | None]:
    """Time and memory of a step of a form, over those of a plain one."""
    found = [
        steps[kind] if steps else {} for kind in ('seconds', 'peak_bytes')
    ]
    return [
        each[form] / each[PLAIN] if {form, PLAIN} <= set(each) else None
        for each in found
    ]


def findings(study: Study, records: list[Record], steps: dict | None) -> str:
    """What the differences of a study say, in sentences.

    Args:
        study (Study): the study.
        records (list[Record]): rows of any study.
        steps (dict | None): of the study, from :func:`read_steps`.

    Returns:
        str: Markdown, a point for each form that gained or lost, with what
        it costs, and one for those that cannot be told from the form they
        are compared with; of each such form, in turn.
    """
    by_other = {}
    for form, others in twins(study).items():
        for other in others:
            found = difference(records, study.name, form, other)
            if found and found.interval:
                by_other.setdefault(other, {})[form] = found
    metric = METRICS[study.metric].heading
    lines = []
    for other, forms in by_other.items():
        for form, found in forms.items():
            if found.verdict == 'open':
                continue
            does = 'gains' if found.verdict == 'better' else 'loses'
            sign = 1 if found.verdict == 'better' else -1
            low, high = sorted(sign * end for end in found.interval)
            planned = min(study.forms[one].seeds for one in (form, other))
            seeds = f'{len(found.values)} seeds'
            if len(found.values) < planned:
                seeds += f' of {planned}, so it may change'
            line = (
                f'{form} {does} {sign * found.mean:.2f} points of {metric} '
                f'against {other} ({low:.2f} to {high:.2f}, {seeds})'
            )
            time, memory = over_plain(form, steps)
            if other == PLAIN and form in TAGS and time is not None:
                line += (
                    f'; a step takes {time:.2f} times as long and '
                    f'{memory:.2f} times the memory'
                )
            lines.append(line)
        same = [f for f, found in forms.items() if found.verdict == 'open']
        if same:
            lines.append(f'not to be told from {other}: {", ".join(same)}')
    return '\n'.join(f'- {line}' for line in lines) or (
        '- nothing can be said before there are two seeds'
    )


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
        for found in differences_to_plain(study, records).values()
        if found.half_width is not None
    ]
    if not widths:
        return None
    return (
        f'Differences below about {mean(widths):.1f} points could not be told '
        'from none with these seeds (mean half-width of the intervals).'
    )
