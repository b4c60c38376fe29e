"""The documents say what is true of the code."""

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmrfa import layers, ops
from mmrfa.console import COMMANDS
from mmrfa.models.weights.pretrained import PRETRAINED
from mmrfa.openmmlab import DISTRIBUTIONS, ORIGINALS
from mmrfa.results.studies import find_study
from mmrfa.results.zoo import config_files

REPO = Path(__file__).resolve().parents[1]
CONFIGS = REPO / 'configs'


def every(*patterns: str) -> list[Path]:
    """Files of the repository."""
    return sorted(p for pattern in patterns for p in REPO.glob(pattern))


DOCUMENTS = every('*.md', 'docs/*.md', 'mmrfa/**/*.md', 'configs/**/*.md')
# By their names; those of the operators are called README, too.
PAGES = {path.stem: path for path in every('*.md', 'docs/*.md')}
TEXTS = {name: path.read_text() for name, path in PAGES.items()}


def blocks(page: str, word: str) -> list[str]:
    """The Python blocks of a page that hold a word."""
    found = re.findall(r'^```python\n(.*?)^```', TEXTS[page], re.M | re.S)
    return [code for code in found if word in code]


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    return TEXTS[page].split(f'\n## {heading}\n')[1].split('\n## ')[0]


@pytest.fixture
def script(monkeypatch) -> Callable[[str], ModuleType]:
    """``script('docs/draw_idea.py')``: a script as a module."""

    def load(name: str) -> ModuleType:
        path = REPO / name
        monkeypatch.syspath_prepend(path.parent)
        return importlib.import_module(path.stem)

    return load


PROGRAMS = [
    pytest.param(page, code, id=f'{page}-{i}')
    for page in ('README', 'any-model', 'backends', 'deploy', 'weights')
    for i, code in enumerate(blocks(page, 'import '))
]


def test_everything_is_collected():
    assert len(PROGRAMS) >= 4
    assert len(DOCUMENTS) >= 13


# Blocks of Python that are no programs by themselves, and what runs them.
READ_BY = {
    'any-model': {'YOLO(': 'a training on data that is fetched'},
    'configs': {
        "_base_ = './": 'test_experiment_runs',
        "_base_ = 'mmdet::": 'test_models/test_converted.py',
        'custom_hooks': 'test_engine/test_long_runs.py',
    },
    'own-data': {
        'import ': 'test_tools/test_own_data.py',
        '_base_': 'test_tools/test_own_data.py',
        'assigner': 'test_tools/test_own_data.py',
    },
    'weights': {'init_cfg = dict(': 'test_the_start_of_a_config_is_known'},
    'CONTRIBUTING': {'MyConv': 'test_own_operator_and_its_test_run'},
}


def test_every_block_is_run():
    programs = {param.values for param in PROGRAMS}
    for page in PAGES:
        for code in blocks(page, ''):
            told = any(word in code for word in READ_BY.get(page, ()))
            assert told or (page, code) in programs, f'{page}:\n{code}'


def test_the_start_of_a_config_is_known():
    (code,) = blocks('weights', 'init_cfg = dict(')
    names = {}
    exec(code, names)
    assert names['init_cfg']['type'] in PRETRAINED


def test_options_of_commands_exist():
    """Every option that a page shows stands in the tool, or where all do."""
    text = '\n'.join(TEXTS.values()).replace('\\\n', ' ')
    pattern = r'(?:^|`)(?:python tools/([\w/]+\.py)|mmrfa ([\w-]+)) ([^`\n#]*)'
    shared = (REPO / 'mmrfa/engine/cli.py').read_text()
    checked = 0
    for script, command, arguments in re.findall(pattern, text, re.M):
        if not script and command not in COMMANDS:
            continue
        tool = REPO / 'tools' / (script or COMMANDS[command][0])
        code = tool.read_text() + shared
        for option in re.findall(r'(?<!\S)--[a-z0-9-]+', arguments):
            assert f"'{option}'" in code, f'{tool.name} {option}'
            checked += 1
    assert checked > 15


def test_costs_of_operators_are_counted():
    def cost(kind: type) -> tuple[int, int]:
        layer = kind(64, 64, 3, padding=1, device='meta').eval()
        with FlopCounterMode(display=False) as counter:
            layer(torch.empty(1, 64, 56, 56, device='meta'))
        count = sum(p.numel() for p in layer.parameters())
        return count, counter.get_total_flops()

    plain = cost(nn.Conv2d)
    rows = []
    for operator in layers.OPERATORS:
        size, work = (a / b for a, b in zip(cost(operator), plain))
        rows.append(f'| `{operator.__name__}` | {size:.2f} | {work:.3f} |')
    assert '\n'.join(rows) in TEXTS['operators']


def test_readme_is_short():
    assert len(TEXTS['README'].splitlines()) <= 150


@pytest.mark.parametrize(('page', 'code'), PROGRAMS)
def test_programs_run(page, code, request):
    if "'compiled'" in code:
        request.getfixturevalue('kernels')
    if 'from ultralytics' in code:
        pytest.importorskip('ultralytics')
    names = {}
    exec(compile(code, page, 'exec'), names)
    nets = [v for v in names.values() if isinstance(v, nn.Module)]
    counts = [f'{sum(p.numel() for p in n.parameters()):,}' for n in nets]
    said = re.findall(r'([\d,]+) parameters', code)
    assert said == counts[: len(said)]
    if 'RFAResNet' in code:
        assert len(said) == 3


def test_plan_prints_what_is_shown(capsys):
    code = blocks('any-model', 'plan_convs')[0]
    exec(compile(code, 'any-model', 'exec'), {})
    assert f'```\n{capsys.readouterr().out}```\n' in TEXTS['any-model']


def test_exact_starts_are_those_of_the_committed_run(script):
    log = REPO / 'benchmarks/results/exact_starts.json'
    results = json.loads(log.read_text())
    table = script('benchmarks/exact_starts.py').table(results)
    assert '\n'.join(table) in TEXTS['any-model']
    # at most 1e-5 in float32 for every operator
    measured = [n for n in results['networks'].values() if n['replaced']]
    assert len(measured) >= 11
    for row in measured:
        assert row['one_percent_off'] > 5e-4  # it would be seen
        assert max(row['errors'].values()) <= 1e-5
        assert max(row['errors_float64'].values()) <= 1e-12
        assert max(row.get('errors_fused', dict(none=0)).values()) <= 1e-5
        assert len(row['errors']) == len(layers.OPERATORS)


def test_own_operator_and_its_test_run(tmp_path, monkeypatch):
    operator, test = blocks('CONTRIBUTING', 'MyConv')
    (tmp_path / 'my_conv.py').write_text(operator)
    (tmp_path / 'test_my_conv.py').write_text(test)
    monkeypatch.setenv('PYTHONPATH', str(REPO))
    found = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', 'test_my_conv.py'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout
    assert re.search(r'^\d\d passed', found.stdout, re.M)


def test_experiment_runs():
    (code,) = blocks('configs', 'RFCAConv in the last two')
    # Read from the folder that the page puts it in, without writing there.
    code = code.replace("'./", f"'{CONFIGS}/")
    config = Config.fromstring(code, '.py')
    init_default_scope(config.default_scope)
    backbone = MODELS.build(config.model.backbone)
    kinds = [
        type(getattr(backbone, f'layer{stage}')[0].conv1)
        for stage in (1, 2, 3, 4)
    ]
    assert kinds == [nn.Conv2d, nn.Conv2d, layers.RFCAConv, layers.RFCAConv]


def anchors(document: Path) -> set[str]:
    """The headings of a page, as links write them."""
    text = re.sub(r'^```.*?^```', '', document.read_text(), flags=re.M | re.S)
    headings = re.findall(r'^#+ (.+)$', text, re.M)
    return {
        re.sub(r'[^\w -]', '', h.lower()).replace(' ', '-') for h in headings
    }


@pytest.mark.parametrize(
    'document', DOCUMENTS, ids=lambda path: str(path.relative_to(REPO))
)
def test_links_lead_somewhere(document):
    text = document.read_text()
    targets = re.findall(r'\]\(([^)\s]+)\)', text)
    targets = [t for t in targets if '://' not in t]
    if document == PAGES['README']:
        assert targets  # the pattern finds links at all
    for target in targets:
        name, _, anchor = target.partition('#')
        path = document.parent / name if name else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target
    for label in re.findall(r'\]\[([^\]]+)\]', text):
        assert f'\n[{label}]: ' in text, f'[{label}]'


def test_files_named_exist():
    folders = 'benchmarks|configs|docs|mmrfa|scripts|tests|tools'
    # not the beginning of a pattern, such as configs/*/README.md
    pattern = rf'(?<![\w/.-])(?:{folders})/[\w./+-]+(?![\w./+*<{{-])'
    names = {
        name.rstrip('.')
        for page in PAGES
        for name in re.findall(pattern, TEXTS[page])
    }
    assert len(names) > 30
    # made by the reader, or the tool of another package
    names -= {'configs/mine.py', 'tools/dataset_converters/voc_aug.py'}
    missing = [name for name in names if not (REPO / name).exists()]
    assert not missing


def test_targets_of_make():
    pattern = r'^([a-z-]+):.*## '
    targets = set(re.findall(pattern, (REPO / 'Makefile').read_text(), re.M))
    named = {
        name
        for text in TEXTS.values()
        for name in re.findall(r'(?:^|`)make ([a-z-]+)(?=[` ]|$)', text, re.M)
    }
    assert named == targets - {'help'}


def test_operator_table():
    rows = re.findall(
        r'^\| `(\w+)` \|.*\[layer\]\(([^)]+)\) \|$', TEXTS['README'], re.M
    )
    assert [name for name, _ in rows] == [c.__name__ for c in layers.OPERATORS]
    for operator, (_, path) in zip(layers.OPERATORS, rows):
        assert f'class {operator.__name__}(' in (REPO / path).read_text()


def test_speed_is_that_of_the_committed_run(script):
    text = TEXTS['backends']
    (name,) = re.findall(r'(benchmarks/results/cpu_\d[^)]*)\.md\)', text)
    results = json.loads((REPO / f'{name}.json').read_text())
    table = script('benchmarks/report.py').readme_table(results)
    assert len(table) > 6
    assert '\n'.join(table) in text
    means = {
        kind: list(results['summary'][f'{kind}, 2 threads'].values())
        for kind in ('inference', 'training')
    }
    words = ' '.join(text.split())
    for kind, (literal, *_, ours) in means.items():
        assert f'{kind} {ours:.2f} (literal: {literal:.1f})' in words
    literal, ours = ([m[i] for m in means.values()] for i in (0, -1))
    words = ' '.join(TEXTS['README'].split())
    assert (
        f'{ours[0]:.2f} times as long as `nn.Conv2d` in inference and '
        f'{ours[1]:.2f} times in training'
    ) in words
    assert f'take {literal[0]:.1f} and {literal[1]:.1f} times' in words


@pytest.mark.usefixtures('kernels')
def test_every_kernel_can_be_timed(script):
    kernels = script('benchmarks/kernels.py')
    x = torch.randn(1, 2, 6, 6)
    calls = kernels.calls(x, outputs=3)
    assert list(calls) == list(kernels.FLOORS)
    for call in calls.values():
        call(x)


def test_steps_of_a_study_can_be_timed(script, data_root):
    """Those of the training: they move the weights of the network."""
    data_root('camvid')
    configs = config_files(REPO)
    form = find_study('camvid_start', configs).forms['RFCBAMConv neutral']
    path = str(configs[form.config])
    step = script('benchmarks/study_steps.py').step_of(form, path)
    first, again = (float(step(None)['loss']) for _ in range(2))
    assert 0 < again != first > 0


def test_memory_is_that_of_the_committed_run(script):
    """And one of the networks is counted anew."""
    file = REPO / 'benchmarks/results/memory.json'
    cases = json.loads(file.read_text())['cases']
    names = dict.fromkeys(case['network'] for case in cases)
    for name in names:
        cells = [
            f'{case["ratios"]["kept"]:.2f} / {case["ratios"]["peak"]:.2f}'
            for case in cases
            if (case['network'], case['device']) == (name, 'cpu')
        ]
        assert f'| {name} | {" | ".join(cells[1:])} |' in TEXTS['backends']
    memory = script('benchmarks/memory.py')
    config = memory.CONFIGS['FCN R50-D8']
    for form in ('plain', 'fused'):
        (case,) = (
            case['bytes']
            for case in cases
            if (case['network'], case['device'], case['form'])
            == ('FCN R50-D8', 'meta', form)
        )
        assert memory.step(config, form, 'meta', 2, 512) == case


def test_ways_of_awconv_are_those_of_the_committed_run(script):
    """And the rule takes the faster one, or one that is hardly slower."""
    file = REPO / 'benchmarks/results/aw_by_maps.json'
    results = json.loads(file.read_text())
    benchmark = script('benchmarks/aw_by_maps.py')
    page = '\n'.join(benchmark.page(results)) + '\n'
    assert file.with_suffix('.md').read_text() == page
    ratios = []
    for case in results['cases']:
        seconds, taken = case['seconds'], case['taken']
        other = next(way for way in benchmark.WAYS if way != taken)
        ratios.append(seconds[taken] / seconds[other])
    assert max(ratios) < 1.25
    assert min(ratios) < 0.5


def test_runtimes_are_those_of_the_committed_run(script):
    """Before there is one, the page has no figures."""
    told = TEXTS['deploy'].split('\n### Speed\n')[1]
    rows = [line for line in told.splitlines() if line.startswith('|')]
    file = REPO / 'benchmarks/results/runtimes.json'
    if not file.exists():
        assert not rows and 'has not been' in told
        return
    page = script('benchmarks/runtimes.py').page(json.loads(file.read_text()))
    assert file.with_suffix('.md').read_text() == '\n'.join(page) + '\n'
    assert rows == [line for line in page if line.startswith('|')]
    assert '(../benchmarks/results/runtimes.md)' in told


def test_every_config_is_listed():
    listed = set()
    for row in re.findall(
        r'\| `([\w{][^`]*/[^`]+\.py)` \|$', section('configs', 'Zoo'), re.M
    ):
        for pattern in expand(row):
            found = set(CONFIGS.glob(pattern))
            assert found, pattern
            listed |= found
    entries = set(CONFIGS.glob('*.py')) - {CONFIGS / 'mine.py'}
    for entry in entries:
        for page in ('README', 'configs'):
            assert f'configs/{entry.name}' in TEXTS[page]
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


def test_data_folders_are_those_of_the_configs():
    tree = section('configs', 'Data').split('```')[1]
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
        TEXTS['install'],
        re.M,
    )
    found = {module for module, *_ in rows}
    assert found == set(DISTRIBUTIONS) - {'mmpretrain'}
    metadata = (REPO / 'pyproject.toml').read_text()
    asked = set(re.findall(r'"(onedl-[^"]+)"', metadata))
    for module, *cells in rows:
        (fork, *bounds), (original, *others) = cells[:3], cells[3:]
        assert (fork, original) == DISTRIBUTIONS[module]
        wanted = '{}>={},<{}'.format
        named = {text for text in asked if text.startswith(f'{fork}>')}
        assert named == {wanted(fork, *bounds)}
        assert wanted(original, *others) in ORIGINALS


def test_every_form_is_listed():
    head = TEXTS['backends'].split('\n## ')[0]
    rows = re.findall(r'^\| `(\w+)` \| ([^|]+) \|', head, re.M)
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


def test_every_environment_variable_is_listed():
    table = section('backends', 'Environment variables')
    cells = re.findall(r'^\| (`[^|]+) \|', table, re.M)
    told = set(re.findall(r'`(MMRFA_\w+)`', ' '.join(cells)))
    read = set()
    folders = 'mmrfa', 'tools', 'scripts', 'tests', 'configs'
    for path in every(
        'setup.py',
        'Makefile',
        '.ci/run',
        *(
            f'{folder}/**/*.{kind}'
            for folder in folders
            for kind in ('py', 'sh')
        ),
    ):
        if path != Path(__file__).resolve():
            read |= set(re.findall(r'MMRFA_[A-Z0-9_]+', path.read_text()))
    for path in every('mmrfa/**/*.cpp', 'mmrfa/**/*.h', 'mmrfa/**/*.inl'):
        read |= set(re.findall(r'getenv\("(\w+)"\)', path.read_text()))
    read -= {'MMRFA_SOURCES'}  # a macro of the kernels
    assert told == read


def test_estimate_for_gpus_is_the_computed_one(script):
    lines = script('benchmarks/cuda_floor.py').floors()
    assert len(lines) == 2 + 4 * 2
    text = (REPO / 'mmrfa/ops/rfa/README.md').read_text()
    assert '\n'.join(lines) in text
    assert '**an estimate**' in text


def test_error_lines_are_in_the_code():
    table = TEXTS['install'].split('| The line says |')[1].split('\n\n')[0]
    quotes = re.findall(r'^\| `([^`]+)`', table, re.M)
    assert len(quotes) >= 6
    said = [
        node.value
        for path in every('mmrfa/**/*.py', 'tools/**/*.py', 'scripts/*.py')
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


def test_picture_is_drawn(tmp_path, script):
    out = tmp_path / 'idea.png'
    script('docs/draw_idea.py').draw(out)
    for path in (out, REPO / 'docs/idea.png'):
        with Image.open(path) as image:
            assert min(image.size) > 300
            assert len(image.convert('RGB').getcolors(2**24)) > 100


def test_picture_shows_the_idea(script):
    draw_idea = script('docs/draw_idea.py')
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
