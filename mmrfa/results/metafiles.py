"""What a clone says about its zoo: metafiles and the tables of READMEs.

It comes from the configs and from the rows of ``results/runs.csv``. A result
without such a row is a dash.
"""

import re
from pathlib import Path
from statistics import mean

import yaml

from mmrfa.results.records import as_runs
from mmrfa.results.runs import METRICS, Run, read_config, select
from mmrfa.results.tables import markdown, put, scores, seeds, spread
from mmrfa.results.zoo import DATA, PLAIN, Entry, config_files, read_name

WARNING = '# Written by scripts/update_zoo.py; do not edit.\n'


def folders(repository: Path) -> list[Path]:
    """Folders of the zoo: those with a README, which names the paper."""
    return sorted(p.parent for p in repository.glob('configs/*/README.md'))


def entries(folder: Path) -> list[Entry]:
    """Configs of a folder: small to large, plain first."""
    found = map(read_name, folder.glob('*.py'))
    return sorted(found, key=lambda entry: (entry.order, entry.path.stem))


def committed_runs(repository: Path) -> list[Run]:
    """Runs in ``results`` that kept to the recipe of their config."""
    runs = as_runs(repository / 'results', config_files(repository))
    return [run for run in runs if not run.changes]


def index(repository: Path) -> str:
    """Text of ``model-index.yml``."""
    paths = [f'configs/{f.name}/metafile.yml' for f in folders(repository)]
    return WARNING + _dump({'Import': paths})


def render(
    folder: Path, params: dict[str, int], runs: list[Run]
) -> tuple[str, str]:
    """Make the files of a folder.

    Args:
        folder (Path): below ``configs``. Its README begins with the name of
            the collection and the paper, and has marks for a table of every
            data set, see :func:`mmrfa.results.tables.put`.
        params (dict[str, int]): number of parameters by config.
        runs (list[Run]): that may back a result.

    Returns:
        tuple[str, str]: text of the metafile and of the README.
    """
    readme = (folder / 'README.md').read_text(encoding='utf-8')
    name, paper, url = re.match(
        r'# (.+)\n\n> \[(.+)\]\((.+)\)\n', readme
    ).groups()
    models, tables = [], {}
    for entry in entries(folder):
        stem, data = entry.path.stem, DATA[entry.data]
        config = read_config(entry.path)
        mine = select(run for run in runs if run.config == stem)
        net = config['model']
        parts = [net, net['backbone']]
        convs = [part.get('attention_conv') for part in parts]
        conv = next((c['type'] for c in convs if c), PLAIN)
        found = {METRICS[m].heading: scores(mine, m) for m in data.metrics}
        plan = config['train_cfg']
        length = {
            'Epochs': plan.get('max_epochs'),
            'Iterations': plan.get('max_iters'),
        }
        model = {
            'Name': stem,
            'In Collection': name,
            'Config': f'configs/{folder.name}/{entry.path.name}',
            'Metadata': {
                'Training Data': data.title.removesuffix(' (val)'),
                'Batch Size': config['auto_scale_lr']['base_batch_size'],
                **{key: value for key, value in length.items() if value},
                'Parameters': params[stem],
                'Architecture': [name, conv],
            },
        }
        reached = {k: round(mean(v), 2) for k, v in found.items() if v}
        if reached:
            result = {'Task': data.task, 'Dataset': data.title}
            model['Results'] = [{**result, 'Metrics': reached}]
        models.append(model)
        row = {
            'Backbone': entry.backbone,
            'Conv': conv,
            'Schedule': entry.schedule,
            'Params (M)': f'{params[stem] / 1e6:.3f}',
            **{heading: spread(values) for heading, values in found.items()},
            'Seeds': seeds(mine),
            'Config': f'[config]({entry.path.name})',
        }
        tables.setdefault(entry.data, []).append(row)
    for data, listed in tables.items():
        table = markdown([*listed[0]], [row.values() for row in listed])
        readme = put(readme, data, table)
    trained_on = {model['Metadata']['Training Data'] for model in models}
    collection = {
        'Name': name,
        'Paper': {'Title': paper, 'URL': url},
        'README': f'configs/{folder.name}/README.md',
        'Metadata': {'Training Data': sorted(trained_on)},
    }
    content = {'Collections': [collection], 'Models': models}
    return WARNING + _dump(content), readme


def _dump(content: dict) -> str:
    """YAML in the order given."""
    return yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, width=1000
    )
