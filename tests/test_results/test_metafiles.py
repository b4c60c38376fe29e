"""Zoo folders: files, metafiles, README tables and model-index.yml agree."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from mmrfa.results import metafiles
from mmrfa.results.costs import network, parameters
from mmrfa.results.records import (
    add_record,
    digest,
    scalars_file,
    used_config,
    write_scalars,
)
from mmrfa.results.zoo import config_files, read_name

from .crafted_runs import CONFIGS, REPO
from .rows import row

FOLDERS = {
    folder: [path for path in CONFIGS.values() if path.parent.name == folder]
    for folder in sorted({path.parent.name for path in CONFIGS.values()})
    if folder != 'demo'
}


@cache
def models(folder: str) -> dict[str, dict]:
    """Models of the committed metafile by name."""
    text = (REPO / f'configs/{folder}/metafile.yml').read_text()
    found = yaml.safe_load(text)['Models']
    assert len({model['Name'] for model in found}) == len(found)
    return {model['Name']: model for model in found}


def render(folder: str, runs: list) -> tuple[str, str]:
    counted = {
        name: model['Metadata']['Parameters']
        for name, model in models(folder).items()
    }
    return metafiles.render(REPO / 'configs' / folder, counted, runs)


def test_order_does_not_hang_on_the_file_system(monkeypatch):
    folder = REPO / 'configs/deeplabv3plus'
    expected = [entry.path for entry in metafiles.entries(folder)]
    glob = Path.glob
    monkeypatch.setattr(
        Path, 'glob', lambda *args: sorted(glob(*args), reverse=True)
    )
    assert [entry.path for entry in metafiles.entries(folder)] == expected


def test_index_names_every_folder():
    text = (REPO / 'model-index.yml').read_text()
    assert text == metafiles.index(REPO), 'run scripts/update_zoo.py'
    listed = yaml.safe_load(text)['Import']
    assert len(FOLDERS) >= 8
    assert sorted(listed) == [f'configs/{f}/metafile.yml' for f in FOLDERS]


@pytest.mark.parametrize('folder', FOLDERS)
def test_files_are_what_the_script_writes(folder, request):
    """So no result stands there without its row in ``results``."""
    if folder.startswith('yolo'):
        request.getfixturevalue('mmyolo')
    metafile, readme = render(folder, metafiles.committed_runs(REPO))
    place = REPO / 'configs' / folder
    hint = 'run scripts/update_zoo.py'
    assert (place / 'metafile.yml').read_text() == metafile, hint
    assert (place / 'README.md').read_text() == readme, hint
    assert models(folder).keys() == {path.stem for path in FOLDERS[folder]}
    for name, model in models(folder).items():
        assert REPO / model['Config'] == CONFIGS[name]


@pytest.mark.parametrize(
    'name',
    [
        'deeplabv3plus_r18-rfa-d16_1xb8-4k_camvid-256x256',
        'fcn_r50-rfa-d8_4xb4-20k_voc12aug-512x512',
        'resnet18-rfca_4xb32-100e_in1k',
        'faster-rcnn_r18-aw_fpn_1xb4-36e_bccd',
        'yolov8_n-rfa_1xb8-40e_bccd',
    ],
)
def test_parameters_are_those_of_the_model(name, request):
    if name.startswith(('faster-rcnn', 'yolo')):
        request.getfixturevalue('mmyolo')
    written = models(CONFIGS[name].parent.name)[name]
    counted = parameters(network(CONFIGS[name]))
    assert written['Metadata']['Parameters'] == counted


@pytest.mark.parametrize('folder', FOLDERS)
def test_links_and_commands_of_readmes_lead_somewhere(folder):
    place = REPO / 'configs' / folder
    text = (place / 'README.md').read_text()
    links = re.findall(r'\]\((?!https://)([^)]+)\)', text)
    assert sorted(place / link for link in links) == FOLDERS[folder]
    commands = re.findall(r'\b(?:configs|tools|scripts)/[\w/.-]+\.\w+', text)
    assert commands
    assert all((REPO / path).is_file() for path in commands)


def test_names_are_taken_apart():
    def parts(name: str) -> tuple:
        entry = read_name(CONFIGS[name])
        return entry.backbone, entry.conv, entry.schedule, entry.data

    name = 'deeplabv3plus_r18-rfcbam-d16_1xb8-4k_camvid-256x256'
    assert parts(name) == ('R18-D16', 'RFCBAMConv', '1xb8-4k', 'camvid')
    name = 'faster-rcnn_r101_fpn_1x_coco'
    assert parts(name) == ('R101', 'plain', '1x', 'coco')
    name = 'resnet34-ca_4xb32-100e_in1k'
    assert parts(name) == ('R34', 'CAConv', '4xb32-100e', 'in1k')
    order = [e.path.stem for e in metafiles.entries(REPO / 'configs/yolov5')]
    assert order[:2] == [
        'yolov5_n_8xb16-300e_coco',
        'yolov5_n-rfa_8xb16-300e_coco',
    ]
    assert order.index('yolov5_n-ca_8xb16-300e_voc0712') < order.index(
        'yolov5_s_8xb16-300e_voc0712'
    )


def test_a_committed_run_fills_its_row(tmp_path):
    name = 'faster-rcnn_r18-rfa_fpn_1xb4-36e_bccd'
    recipe = digest(used_config(CONFIGS[name], {}))
    lines = {1: 0.5, 2: 0.52, 3: 0.9}
    for seed, ap in lines.items():
        options = {'optim_wrapper.optimizer.lr': 0.5} if seed == 3 else {}
        each = row(
            config=name,
            seed=seed,
            recipe=recipe,
            options=json.dumps(options),
        )
        add_record(tmp_path / 'results', each)
        path = scalars_file(tmp_path / 'results', *each.key)
        write_scalars(path, [{'coco/bbox_mAP': ap, 'step': 36}])
    (tmp_path / 'configs').symlink_to(REPO / 'configs')
    assert config_files(tmp_path).keys() == CONFIGS.keys()
    runs = metafiles.committed_runs(tmp_path)
    metafile, readme = render('faster_rcnn', runs)
    results = {
        model['Name']: model['Results']
        for model in yaml.safe_load(metafile)['Models']
        if 'Results' in model
    }
    assert results == {
        name: [
            {
                'Task': 'Object Detection',
                'Dataset': 'BCCD (val)',
                'Metrics': {'box AP': 51.0},
            }
        ]
    }
    (shown,) = [x for x in readme.splitlines() if f'({name}.py)' in x]
    assert '| 51.00 ± 1.41 | 1, 2 |' in shown
