"""Tables and a plot of what run.py and run_cuda.py measured."""

import json
from pathlib import Path

# What a case may have for each form: unit, and its size.
FIGURES = {
    'inference': ('ms', 1e3),
    'training': ('ms', 1e3),
    'peak_mb': ('MiB', 1),
    'kept_mb': ('MiB', 1),
}
KEYS = (
    'threads',
    'batch',
    'operator',
    'network',
    'channels',
    'size',
    'stride',
)


def write(results: dict, out: Path, lines: list[str]) -> None:
    """Write ``out.json`` and ``out.md``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1)
    out.with_suffix('.json').write_text(text + '\n')
    out.with_suffix('.md').write_text('\n'.join(lines) + '\n')


def table(head: list, rows: list[list]) -> list[str]:
    """A Markdown table."""
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    return lines + ['| ' + ' | '.join(map(str, row)) + ' |' for row in rows]


def tables(results: dict, title: str, note: str) -> list[str]:
    """Markdown of all figures.

    Args:
        results (dict): ``machine``, ``summary`` (ratios by form, by name),
            ``layers`` and ``networks`` (cases).
        title (str): of the page.
        note (str): how to read the figures.

    Returns:
        list[str]: lines.
    """
    setup = ', '.join(f'{k} {v}' for k, v in results['machine'].items())
    lines = [f'# {title}', '', f'{setup}. {note}']
    if results['summary']:
        rows = [
            [name, *(f'{ratio:.2f}' for ratio in ratios.values())]
            for name, ratios in results['summary'].items()
        ]
        head = ['', *next(iter(results['summary'].values()))]
        lines += ['', '## RFAConv, geometric mean over the shapes', '']
        lines += table(head, rows)
    for title in ('layers', 'networks'):
        for name, (unit, factor) in FIGURES.items():
            cases = [case for case in results[title] if case.get(name)]
            if not cases:
                continue
            keys = [key for key in KEYS if key in cases[0]]
            columns = forms(cases[0][name])
            rows = [
                [
                    *(case[key] for key in keys),
                    f'{case[name]["plain"] * factor:.3f}',
                    *(ratio(case[name], form) for form in columns),
                ]
                for case in cases
            ]
            head = [*keys, f'plain, {unit}', *columns]
            lines += ['', f'## {title.capitalize()}, {name}', '']
            lines += table(head, rows)
    return lines


def forms(found: dict[str, float]) -> list[str]:
    """Names of what is compared with 'plain'."""
    return [form for form in found if form != 'plain']


def ratio(found: dict[str, float], form: str, digits: int = 2) -> str:
    """A form over 'plain'; nothing where the operator has no such form."""
    if form not in found:
        return ''
    return f'{found[form] / found["plain"]:.{digits}f}'


def readme_table(results: dict) -> list[str]:
    """The speed table of the README: two threads, batch 4, float32.

    The literal form, which is the first, and the compiled one, the last.
    """

    first, *_, last = forms(results['layers'][0]['training'])

    def cells(case: dict, name: str, digits: int) -> list[str]:
        return [ratio(case[name], form, digits) for form in (first, last)]

    rows = []
    for case in results['layers'] + results['networks']:
        size = case['size']
        if case['threads'] != 2 or last not in case['training']:
            continue
        if 'network' in case:
            name = f'{case["network"]}, {case["batch"]} x {size}²'
            memory = cells(case, 'peak_mb', 2)
        elif (case['operator'], case['batch'], case['stride']) == (
            ('RFAConv', 4, 1)
        ):
            channels = case['channels'].split()[0]
            name = f'RFAConv, {channels} channels, {size}x{size}'
            memory = ['', '']
        else:
            continue
        times = cells(case, 'inference', 1) + cells(case, 'training', 1)
        rows.append([name, *times, *memory])
    head = [
        f'{what}, {name}'
        for what in ('inference', 'training', 'memory')
        for name in ('literal', f'`{last}`')
    ]
    return table(['time or memory over plain', *head], rows)


def plot(cases: list[dict], path: Path) -> None:
    """Ratios of layers as bars, one group per case; none without matplotlib.

    Args:
        cases (list[dict]): in the order to draw.
        path (Path): picture to write.
    """
    try:
        import matplotlib
    except ImportError:
        print('matplotlib is missing: no plot')
        return
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), sharey=True)
    labels = [f'{c["channels"]}, {c["size"]}²/{c["stride"]}' for c in cases]
    for axis, name in zip(axes, ('inference', 'training')):
        for i, form in enumerate(forms(cases[0][name])):
            places = [n + (i - 1) * 0.27 for n in range(len(cases))]
            heights = [
                case[name][form] / case[name]['plain'] for case in cases
            ]
            bars = axis.bar(places, heights, 0.25, label=form)
            axis.bar_label(bars, fmt='%.1f', fontsize=6)
        axis.axhline(1, color='black', linewidth=0.8)
        axis.set_xticks(range(len(cases)), labels, fontsize=7)
        title = f'{cases[0]["operator"]}, {name}, batch {cases[0]["batch"]}'
        axis.set_title(title, fontsize=9)
    axes[0].set_ylabel('time / nn.Conv2d')
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
