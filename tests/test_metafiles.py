"""Zoo folders: files, metafiles, README tables and model-index.yml agree."""

import importlib.util
import os
import re
from pathlib import Path

import pytest
import yaml
from crafted_runs import craft

REPO = Path(__file__).parents[1]
FOLDERS = sorted(
    {path.parent.name for path in REPO.glob('configs/*/*.py')}
    - {'_base_', 'demo'}
)


def read(folder: str) -> dict:
    text = (REPO / 'configs' / folder / 'metafile.yml').read_text()
    return yaml.safe_load(text)


@pytest.fixture
def zoo():
    """The script that writes the files."""
    spec = importlib.util.spec_from_file_location(
        'update_zoo', REPO / 'scripts/update_zoo.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(folder: str) -> dict[str, int]:
    return {
        model['Name']: model['Metadata']['Parameters']
        for model in read(folder)['Models']
    }


def test_index_names_every_folder(zoo):
    text = (REPO / 'model-index.yml').read_text()
    assert text == zoo.index()
    listed = yaml.safe_load(text)['Import']
    assert len(FOLDERS) >= 6
    assert sorted(listed) == [f'configs/{f}/metafile.yml' for f in FOLDERS]
    names = [m['Name'] for folder in FOLDERS for m in read(folder)['Models']]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize('folder', FOLDERS)
def test_names_and_paths(folder):
    content = read(folder)
    (collection,) = content['Collections']
    assert (REPO / collection['README']).is_file()
    files = {path.stem for path in (REPO / 'configs' / folder).glob('*.py')}
    assert {model['Name'] for model in content['Models']} == files
    for model in content['Models']:
        path = REPO / model['Config']
        assert path.is_file() and path.stem == model['Name']
        assert path.parent.name == folder
        assert model['In Collection'] == collection['Name']


@pytest.mark.parametrize('folder', FOLDERS)
def test_files_are_what_the_script_writes(zoo, folder):
    """So no result stands there without its run in ``logs/``."""
    files = zoo.render(folder, parameters(folder), zoo.read_runs())
    readme = REPO / f'configs/{folder}/README.md'
    assert readme not in files, 'run scripts/update_zoo.py'
    for path, text in files.items():
        assert path.read_text() == text, 'run scripts/update_zoo.py'


@pytest.mark.parametrize(
    'name',
    [
        'deeplabv3plus/deeplabv3plus_r18-rfa-d16_1xb8-4k_camvid-256x256',
        'fcn/fcn_r50-rfa-d8_4xb4-20k_voc12aug-512x512',
        'imagenet/resnet18-rfca_4xb32-100e_in1k',
        'faster_rcnn/faster-rcnn_r18-aw_fpn_1xb4-36e_bccd',
        'yolox/yolox_nano-rfa_8xb8-300e_coco',
    ],
)
def test_parameters_are_those_of_the_model(zoo, name):
    folder, _, stem = name.partition('/')
    detection = folder in ('faster_rcnn', 'yolox')
    if detection and importlib.util.find_spec('mmcv._ext') is None:
        reason = 'detection needs the compiled mmcv operators'
        if os.environ.get('MMRFA_REQUIRE_DATA') == '1':
            pytest.fail(reason)
        pytest.skip(reason)
    counted = zoo.count_parameters(REPO / f'configs/{name}.py')
    assert parameters(folder)[stem] == counted


@pytest.mark.parametrize('folder', FOLDERS)
def test_links_and_commands_of_readmes_lead_somewhere(folder):
    place = REPO / 'configs' / folder
    text = (place / 'README.md').read_text()
    links = re.findall(r'\]\((?!https://)([^)]+)\)', text)
    assert all((place / link).is_file() for link in links)
    commands = re.findall(r'\b(?:configs|tools|scripts)/[\w/.-]+\.\w+', text)
    assert commands
    assert all((REPO / path).is_file() for path in commands)
    if folder != 'yolox':  # has tables of costs instead
        assert {Path(link).stem for link in links} == {
            path.stem for path in place.glob('*.py')
        }


def test_a_committed_run_fills_its_row(zoo, tmp_path, monkeypatch):
    name = 'faster-rcnn_r18-rfa_fpn_1xb4-36e_bccd'
    changed = {'optim_wrapper.optimizer.lr': 0.5}
    for seed, ap in ((1, 0.5), (2, 0.52)):
        craft(tmp_path / f'{seed}', name, {'coco/bbox_mAP': ap}, seed=seed)
    other = {'coco/bbox_mAP': 0.9}
    craft(tmp_path / 'other', name, other, seed=3, **changed)
    monkeypatch.setattr(zoo, 'LOGS', tmp_path)
    files = zoo.render(
        'faster_rcnn', parameters('faster_rcnn'), zoo.read_runs()
    )
    folder = REPO / 'configs/faster_rcnn'
    models = yaml.safe_load(files[folder / 'metafile.yml'])['Models']
    results = {m['Name']: m['Results'] for m in models if 'Results' in m}
    assert results[name] == [
        {
            'Task': 'Object Detection',
            'Dataset': 'BCCD (val)',
            'Metrics': {'box AP': 51.0},
        }
    ]
    (row,) = [
        line
        for line in files[folder / 'README.md'].splitlines()
        if f'({name}.py)' in line
    ]
    assert '| 51.00 ± 1.41 | 1, 2 |' in row
