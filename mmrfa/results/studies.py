"""What is trained to be compared: our own studies, and the papers' tables."""

from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from mmrfa.errors import InputError
from mmrfa.results.published import paper_table, paper_tables
from mmrfa.results.runs import METRICS
from mmrfa.results.tables import rows
from mmrfa.results.zoo import PLAIN, variant


@dataclass(frozen=True)
class Form:
    """One network of a study.

    Attributes:
        name (str): an operator or 'plain', with what sets the form apart.
        config (str): of the zoo, without folder and suffix.
        options (dict): entries of the config that are other in the study.
        seeds (int): how many; they are 0, 1 and so on.
    """

    name: str
    config: str
    options: dict[str, object]
    seeds: int


@dataclass(frozen=True)
class Study:
    """Networks that differ in their operator alone.

    Attributes:
        name (str): its key.
        title (str): what it is about.
        metric (str): key of ``runs.METRICS``.
        scored (str): 'val', or 'test' where the last network is scored on the
            test split as well, once.
        size (tuple[int, int]): height and width of the image for which
            operations are counted.
        start_from (str | None): the study whose plain network, of the same
            seed, every run starts as.
        forms (dict[str, Form]): by name, plain ones first.
        pictures (tuple[int, ...]): images of the test split whose masks are
            kept for a figure.
    """

    name: str
    title: str
    metric: str
    scored: str
    size: tuple[int, int]
    forms: dict[str, Form] = field(default_factory=dict)
    start_from: str | None = None
    pictures: tuple[int, ...] = ()


@cache
def _written() -> dict[str, dict]:
    import yaml  # comes with MMEngine

    file = resources.files('mmrfa.results').joinpath('studies.yml')
    return yaml.safe_load(file.read_text(encoding='utf-8'))['studies']


def study_names() -> list[str]:
    """Our own studies, then the papers' tables."""
    return [*_written(), *paper_tables()]


def find_study(name: str, configs: dict[str, Path]) -> Study:
    """Find a study, or a published table as one, of one seed.

    Args:
        name (str): of :func:`study_names`.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        Study: of the forms that have a config here.

    Raises:
        InputError: no study of that name.
    """
    if name in paper_tables():
        return _of_table(name, configs)
    if name not in _written():
        raise InputError(
            f'study: expected one of {", ".join(study_names())}, got {name!r}'
        )
    content = dict(_written()[name])
    config, seeds = content.pop('config'), content.pop('seeds')
    more = content.pop('more_seeds', {})
    shared = content.pop('options', {})
    forms = {}
    for form, options in content.pop('forms').items():
        own = form.split()[0]
        forms[form] = Form(
            form,
            variant(config, own),
            {**shared, **options},
            more.get(form, seeds),
        )
    content['size'] = tuple(content['size'])
    content['pictures'] = tuple(content.get('pictures', ()))
    return Study(name, forms=forms, **content)


def _of_table(name: str, configs: dict[str, Path]) -> Study:
    table = paper_table(name)
    scores = [c.removesuffix('_gain') for c in table.columns]
    metric = next((c for c in scores if c in METRICS), 'miou')
    forms = {}
    for row in rows(table, configs):
        for conv, config in ((PLAIN, row.plain), (row.conv, row.config)):
            form = f'{conv}, {row.model}'
            if config:
                forms.setdefault(form, Form(form, config, {}, 1))
    side = (table.counted or {}).get('size', 512)
    return Study(name, table.title, metric, 'val', (side, side), forms)


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
