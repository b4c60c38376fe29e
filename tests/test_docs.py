"""The documents say what is true of the code."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmrfa.models.family import PACKAGES
from PIL import Image
from torch import nn

from mmrfa import layers, ops

REPO = Path(__file__).resolve().parents[1]
README = REPO / 'README.md'
INSTALL = REPO / 'docs' / 'install.md'
DOCUMENTS = sorted(
    path.resolve()
    for folder, pattern in (
        ('.', '*.md'),
        ('docs', '*.md'),
        ('mmrfa', '**/*.md'),
    )
    for path in (REPO / folder).glob(pattern)
)
CONFIGS = REPO / 'configs'


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in one language."""
    text = README.read_text()
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.M | re.S)


PROGRAMS = [code for code in blocks('python') if 'import' in code]
EXPERIMENTS = [code for code in blocks('python') if '_base_ =' in code]


def test_everything_is_collected():
    assert len(PROGRAMS) >= 2
    assert len(EXPERIMENTS) == 1
    assert len(DOCUMENTS) >= 8


@pytest.mark.parametrize('code', PROGRAMS, ids=range(len(PROGRAMS)))
def test_readme_programs_run(code):
    exec(compile(code, str(README), 'exec'), {})


def test_readme_experiment_runs():
    (code,) = EXPERIMENTS
    # Read from the folder that the README puts it in, without writing there.
    code = code.replace("'./", f"'{CONFIGS}/")
    config = Config.fromstring(code, '.py')
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(config.default_scope)
    backbone = MODELS.build(config.model.backbone)
    kinds = [
        type(getattr(backbone, f'layer{stage}')[0].conv1)
        for stage in (1, 2, 3, 4)
    ]
    assert kinds == [nn.Conv2d, nn.Conv2d, layers.RFCAConv, layers.RFCAConv]


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda p: p.parent.name)
def test_links_lead_somewhere(document):
    text = document.read_text()
    targets = re.findall(r'\]\(([^)\s]+)\)', text)
    targets = [t for t in targets if '://' not in t]
    if document.parent == REPO / 'mmrfa/ops/rfa':
        assert targets  # the pattern finds links at all
    for target in targets:
        path = document.parent / target.partition('#')[0]
        assert path.exists(), f'{document.name}: {target}'
    labels = re.findall(r'\]\[([^\]]+)\]', text)
    for label in labels:
        assert f'\n[{label}]: ' in text, f'{document.name}: [{label}]'


def test_speed_table_is_that_of_the_committed_run():
    text = README.read_text()
    (name,) = re.findall(r'\((benchmarks/results/cpu_\d[^)]*)\.md\)', text)
    results = json.loads((REPO / f'{name}.json').read_text())
    code = 'import json, report; r = json.load(open({0!r}));'
    code = code.format(str(REPO / f'{name}.json'))
    code += 'print(*report.readme_table(r), sep="\\n")'
    table = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPO / 'benchmarks',
    ).stdout
    assert table.count('\n') > 6 and table in text
    words = ' '.join(text.split())
    for kind in ('inference', 'training'):
        means = results['summary'][f'{kind}, 2 threads']
        said = f'{kind} {means["cpu"]:.2f} (literal: {means["reference"]:.1f})'
        assert said in words


def test_files_named_in_the_readme_exist():
    pattern = r'(?<![\w/.-])((?:configs|tools|tests|docs|mmrfa)/[\w./+-]+)'
    names = set(re.findall(pattern, README.read_text()))
    assert len(names) > 15
    # made by the reader, or the tool of another package
    names -= {'configs/mine.py', 'tools/dataset_converters/voc_aug.py'}
    missing = [name for name in names if not (REPO / name).exists()]
    assert not missing


def test_readme_lists_every_config():
    text = README.read_text()
    listed = set()
    for row in re.findall(r'\| `([\w{][^`]*/[^`]+\.py)` \|$', text, re.M):
        for pattern in expand(row):
            found = set(CONFIGS.glob(pattern))
            assert found, pattern
            listed |= found
    entries = set(CONFIGS.glob('*.py')) - {CONFIGS / 'mine.py'}
    for entry in entries:
        assert f'configs/{entry.name}' in text
    zoo = {
        path
        for path in CONFIGS.rglob('*.py')
        if path.parent not in (CONFIGS, CONFIGS / 'demo')
        and '_base_' not in path.parts
    }
    assert listed == zoo and zoo and entries


def expand(text: str) -> list[str]:
    """Write ``{a,b}`` out, as the shell does."""
    found = re.search(r'\{([^{}]*)\}', text)
    if found is None:
        return [text]
    before, after = text[: found.start()], text[found.end() :]
    return [
        whole
        for choice in found[1].split(',')
        for whole in expand(before + choice + after)
    ]


def test_readme_data_folders_are_those_of_the_configs():
    text = README.read_text()
    tree = text[text.index('## Data') :].split('```')[1]
    files = [name for word in tree.split() for name in expand(word)]
    checked = 0
    for path in (CONFIGS / '_base_/datasets').glob('*.py'):
        code = path.read_text()
        root = re.search(r"DATA_ROOT:data\}\}/([\w/]+)'", code)
        if root is None:  # inherits its folders
            continue
        folder = root[1].split('/')[0]
        assert any(word.startswith(folder) for word in files)
        for name in re.findall(r"ann_file='([^']+)'", code):
            name = re.sub(r'^VOC20\d\d/', '', name)
            assert name in files, f'{path.name}: {name}'
            checked += 1
    assert checked > 10


def test_versions_are_those_checked():
    rows = re.findall(
        r'^\| (\w+) \| (\S+) >= (\S+), < (\S+) \| (\S+) >= (\S+), < (\S+) \|',
        INSTALL.read_text(),
        re.M,
    )
    assert {
        module: (tuple(names[:3]), tuple(names[3:])) for module, *names in rows
    } == PACKAGES


def test_readme_lists_every_backend():
    text = README.read_text()
    section = text[text.index('## Backends') :].split('\n## ')[0]
    rows = re.findall(r'^\| `(\w+)` \| ([^|]+) \|', section, re.M)
    assert tuple(name for name, _ in rows) == ops.BACKENDS
    forms = {
        'RFAConv': ops.rfa_conv2d,
        'RFCBAMConv': ops.rfcbam_conv2d,
        'RFCAConv': ops.rfca_conv2d,
        'AWConv': ops.aw_conv2d,
    }
    for name, operators in rows:
        having = [k for k, form in forms.items() if name in form.backends]
        wanted = 'all' if having == list(forms) else ', '.join(having)
        assert operators == wanted


def test_estimate_for_gpus_is_the_computed_one():
    script = REPO / 'benchmarks/cuda_floor.py'
    run = subprocess.run(
        [sys.executable, script], check=True, capture_output=True, text=True
    )
    assert run.stdout.count('\n') == 2 + 4 * 2
    text = (REPO / 'mmrfa/ops/rfa/README.md').read_text()
    assert run.stdout.strip() in text
    assert '**an estimate**' in text


def test_error_lines_are_in_the_code():
    text = INSTALL.read_text()
    table = text[text.index('| The line says |') :].split('\n\n')[0]
    quotes = re.findall(r'^\| `([^`]+)`', table, re.M)
    assert len(quotes) >= 6
    said = [
        node.value
        for folder in ('mmrfa', 'tools', 'scripts')
        for path in (REPO / folder).rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for quote in quotes:
        for part in quote.split('...'):
            assert any(part.strip() in text for text in said), part


# Operator and options, by the folder of its derivation.
DERIVATIONS = {
    'rfa': [('RFAConv', {}), ('RFAConv', dict(mode='unfold'))],
    'rfcbam': [('RFCBAMConv', {})],
    'rfca': [('RFCAConv', {})],
    'aw': [('AWConv', {})],
}


@pytest.mark.parametrize('folder', DERIVATIONS)
def test_parameter_tables(folder):
    text = (REPO / f'mmrfa/ops/{folder}/README.md').read_text()
    rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in text.splitlines()
        if line.startswith('| `')
    ]
    sizes = dict(C=70, O=36, groups=2, kh=2, kw=3, K=6, r=16, hidden=8)
    sizes['M'] = max(1, 70 // 2 // 16)
    if folder == 'rfcbam':
        sizes['hidden'] = 16
    for form, (name, options) in enumerate(DERIVATIONS[folder]):
        layer = getattr(layers, name)(70, 36, (2, 3), groups=2, **options)
        found = {}
        for key, value in layer.named_parameters():
            module = key.rpartition('.')[0]
            if isinstance(layer.get_submodule(module), nn.BatchNorm2d):
                key = f'{module}.*'
            found[key] = tuple(value.shape)
        written = {
            re.match(r'`([^`]+)`', row[3 * form])[1]: eval(
                row[3 * form + 1], {'max': max}, dict(sizes)
            )
            for row in rows
        }
        assert written == found


def test_picture_is_drawn(tmp_path):
    out = tmp_path / 'idea.png'
    script = REPO / 'docs/draw_idea.py'
    subprocess.run(
        [sys.executable, script, out],
        check=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
    )
    for path in (out, REPO / 'docs/idea.png'):
        with Image.open(path) as image:
            assert min(image.size) > 300
            assert len(image.convert('RGB').getcolors(2**24)) > 100


def test_picture_shows_the_idea():
    sys.path.insert(0, str(REPO / 'docs'))
    try:
        import draw_idea
    finally:
        sys.path.pop(0)
    values = draw_idea.compute()
    plain, spatial, rfa = (values[k] for k in ('plain', 'spatial', 'rfa'))
    assert plain['A'].equal(plain['B'])
    # The windows overlap in their lower right and upper left 2 x 2 taps.
    assert spatial['A'][1:, 1:].equal(spatial['B'][:2, :2])
    assert not spatial['A'].equal(spatial['B'])
    assert not rfa['A'][1:, 1:].equal(rfa['B'][:2, :2])
    assert float(rfa['A'].sum()) == pytest.approx(1)
    first, second = draw_idea.at_shared_pixel(rfa).values()
    assert abs(first - second) > 0.05  # seen in the picture
