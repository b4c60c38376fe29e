"""Tables and a plot of what run.py measured."""

from pathlib import Path


def write_report(results: dict, out: Path) -> None:
    """Write ``out.md`` and ``out.png``.

    Args:
        results (dict): as run.py makes it.
        out (Path): without ending.
    """
    out.with_suffix('.md').write_text('\n'.join(tables(results)) + '\n')
    plot(results, out.with_suffix('.png'))


def tables(results: dict) -> list[str]:
    """Markdown lines."""
    machine = results['machine']
    lines = [
        f'# Benchmark of {machine["date"]}',
        '',
        f'{machine["cpu"]}, {machine["instructions"]}; torch '
        f'{machine["torch"]}, mmrfa {machine["mmrfa"]} at '
        f'`{machine["commit"][:12]}`; {machine["dtype"]}. Ratios are to '
        '`nn.Conv2d` or the plain network, timed in turn in the same run; '
        'medians. `reference` is the literal form. Memory is the peak of a '
        'training step with `MALLOC_MMAP_THRESHOLD_` at 1 MiB, so that blocks '
        'that are free again do not count.',
    ]
    if results['summary']:
        lines += [
            '',
            '## RFAConv, stride 1, batch 4: geometric mean over the shapes',
            '',
        ]
        lines += table(
            ['', 'reference', 'fused', 'cpu'],
            [
                [name, *(f'{ratios[form]:.2f}' for form in ratios)]
                for name, ratios in results['summary'].items()
            ],
        )
    head = 'threads', 'batch', 'operator', 'channels', 'pixels', 'stride'
    for name in ('inference', 'training'):
        lines += ['', f'## Layers, {name}', '']
        rows = [
            [
                *(case[key] for key in ('threads', 'batch', 'operator')),
                case['channels'],
                f'{case["size"]}x{case["size"]}',
                case['stride'],
                *times(case[name]),
            ]
            for case in results['layers']
        ]
        lines += table(
            [*head, 'Conv2d, ms', 'reference', 'fused', 'cpu'], rows
        )
    for name in ('inference', 'training'):
        if not results['networks']:
            break
        lines += ['', f'## RFA networks, {name}', '']
        rows = []
        for case in results['networks']:
            input_ = f'{case["batch"]} x {case["size"]}x{case["size"]}'
            row = [case['threads'], case['network'], input_]
            row += times(case[name])
            if name == 'training':
                peak = case['peak_mb']
                row.append(f'{peak["plain"]:.0f}')
                row += [f'{peak[f] / peak["plain"]:.2f}' for f in FORMS]
            rows.append(row)
        head = ['threads', 'network', 'input', 'plain, ms', *FORMS]
        if name == 'training':
            head += ['plain, MiB', *(f'{form}, memory' for form in FORMS)]
        lines += table(head, rows)
    return lines


FORMS = ('reference', 'fused', 'cpu')
SHOWN = ('reference', 'cpu')


def readme_table(results: dict) -> list[str]:
    """The speed table of the README: two threads, batch 4, float32."""
    rows = []
    for case in results['layers']:
        chosen = case['operator'], case['batch'], case['stride']
        if chosen == ('RFAConv', 4, 1) and case['threads'] == 2:
            channels = case['channels'].split()[0]
            pixels = f'{case["size"]}x{case["size"]}'
            name = f'RFAConv, {channels} channels, {pixels}'
            rows.append([name, *ratios(case), '', ''])
    for case in results['networks']:
        if case['threads'] == 2:
            name = f'{case["network"]}, {case["batch"]} x {case["size"]}²'
            memory = [
                f'{case["peak_mb"][form] / case["peak_mb"]["plain"]:.2f}'
                for form in SHOWN
            ]
            rows.append([name, *ratios(case), *memory])
    head = [
        f'{what}, {name}'
        for what in ('inference', 'training', 'memory')
        for name in ('literal', '`cpu`')
    ]
    return table(['time or memory over plain', *head], rows)


def ratios(case: dict) -> list[str]:
    """Times over the plain form: inference, then training."""
    return [
        f'{case[what][form] / case[what]["plain"]:.1f}'
        for what in ('inference', 'training')
        for form in SHOWN
    ]


def times(found: dict) -> list[str]:
    """Milliseconds of the baseline, then ratios."""
    ratios = [f'{found[form] / found["plain"]:.2f}' for form in FORMS]
    return [f'{found["plain"] * 1e3:.2f}', *ratios]


def table(head: list, rows: list[list]) -> list[str]:
    """A Markdown table."""
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    return lines + ['| ' + ' | '.join(map(str, row)) + ' |' for row in rows]


def plot(results: dict, path: Path) -> None:
    """Ratios of RFAConv at batch 4 as bars, one group per shape."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    threads = max(case['threads'] for case in results['layers'])
    batches = {case['batch'] for case in results['layers']}
    batch = 4 if 4 in batches else max(batches)
    cases = [
        case
        for case in results['layers']
        if (case['operator'], case['batch'], case['threads'])
        == ('RFAConv', batch, threads)
        and case['stride'] == 1
    ]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, name in zip(axes, ('inference', 'training')):
        for i, form in enumerate(FORMS):
            ratios = [case[name][form] / case[name]['plain'] for case in cases]
            places = [n + (i - 1) * 0.27 for n in range(len(cases))]
            bars = axis.bar(places, ratios, 0.25, label=form)
            axis.bar_label(bars, fmt='%.1f', fontsize=7)
        axis.axhline(1, color='black', linewidth=0.8)
        axis.set_xticks(range(len(cases)))
        axis.set_xticklabels(
            [f'{c["channels"]}, {c["size"]}²' for c in cases], fontsize=8
        )
        axis.set_title(f'RFAConv, {name}, batch {batch}', fontsize=9)
    axes[0].set_ylabel('time / nn.Conv2d')
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
