"""Tables filled from runs: two real ones, and crafted ones for the rest."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from crafted_runs import config_file, craft

from mmrfa.utils.cli import run_tool
from mmrfa.utils.paper_tables import load_paper_tables

REPO = Path(__file__).parents[1]
TOOL = REPO / 'tools/analysis_tools/paper_tables.py'
SEG = 'deeplabv3plus_r18{}-d16_4xb4-20k_voc12aug-512x512'
R18 = 'resnet18_4xb32-100e_in1k'
R18_RFA = 'resnet18-rfa_4xb32-100e_in1k'


def load_tool():
    spec = importlib.util.spec_from_file_location('paper_tables', TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules['paper_tables'] = module
    spec.loader.exec_module(module)
    return module


TABLES = load_tool()


def show(capsys, *arguments: object) -> dict[tuple, tuple]:
    """Run the tool; cells after the metric by (model, conv, metric)."""
    status = run_tool(lambda: TABLES.main([str(a) for a in arguments]))
    out, err = capsys.readouterr()
    assert status == 0, err
    show.text = out
    found = {}
    for line in out.splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if len(cells) == 8 and cells[0] not in ('Model', '---'):
            found[cells[0], cells[1], cells[3]] = tuple(cells[4:])
    return found


def fail(capsys, *arguments: object) -> str:
    """Run the tool, which must stop with one line."""
    status = run_tool(lambda: TABLES.main([str(a) for a in arguments]))
    out, err = capsys.readouterr()
    assert status == 2
    assert not out
    (line,) = err.splitlines()
    return line


def test_two_real_runs_fill_the_table(sample_root, tmp_path, capsys):
    scores = {}
    for op, seed in (('', 3), ('-rfa', 4)):
        options = [
            'train_cfg.max_iters=2',
            'train_cfg.val_interval=2',
            'train_dataloader.num_workers=0',
            'train_dataloader.persistent_workers=False',
            'train_dataloader.batch_size=2',
            'model.data_preprocessor.size=(64,64)',
            'val_dataloader.num_workers=0',
            'val_dataloader.persistent_workers=False',
            'val_dataloader.dataset.indices=4',
            'val_dataloader.dataset.pipeline.1.scale=(96,96)',
            f'randomness.seed={seed}',
        ]
        for part in ('datasets.0', 'datasets.1'):
            key = f'train_dataloader.dataset.{part}.pipeline'
            options.append(f'{key}.3.scale=(96,96)')
            options.append(f'{key}.4.crop_size=(64,64)')
        path = [str(REPO), os.environ.get('PYTHONPATH', '')]
        done = subprocess.run(
            [
                sys.executable,
                REPO / 'tools/train.py',
                config_file(SEG.format(op)),
                '--work-dir',
                tmp_path / f'run{op}',
                '--cfg-options',
                *options,
            ],
            env=dict(
                os.environ,
                MMRFA_DATA_ROOT=str(sample_root),
                PYTHONPATH=os.pathsep.join(filter(None, path)),
                OMP_NUM_THREADS='1',
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (file,) = tmp_path.glob(f'run{op}/*/vis_data/scalars.json')
        scores[op] = json.loads(file.read_text().splitlines()[-1])['mIoU']

    rows = show(capsys, 'voc12_segmentation', '--runs', tmp_path)
    model = 'DeepLabV3+ R18-D16'
    mine = f'{scores[""]:.2f}', f'{scores["-rfa"]:.2f}'
    assert rows[model, 'plain', 'mIoU (%)'] == ('-', mine[0], '-', '3')
    assert rows[model, 'RFAConv', 'mIoU (%)'] == ('-', mine[1], '-', '4')
    gain = f'{scores["-rfa"] - scores[""]:.2f}'
    assert rows[model, 'RFAConv', 'mIoU (%), gain'] == ('-', gain, '-', '4')
    assert rows[model, 'CAConv', 'mIoU (%)'] == ('-', '-', '-', '-')
    # Two iterations are not the recipe, and the table says so.
    assert 'train_cfg.max_iters 2 instead of 20000' in show.text


def test_seeds_mean_and_spread(tmp_path, capsys):
    for seed, top1 in enumerate((70.0, 71.0, 72.6)):
        metrics = {'accuracy/top1': top1, 'accuracy/top5': 90.0}
        craft(tmp_path / f'a{seed}', R18_RFA, metrics, seed)
    craft(tmp_path / 'b', R18, {'accuracy/top1': 70.0}, seed=7)
    rows = show(capsys, 'imagenet', '--runs', tmp_path)
    row = 'ResNet-18', 'RFAConv'
    # mean 71.2, squares of the deviations 1.44 + 0.04 + 1.96 = 3.44, / 2
    expected = ('71.23', '71.20 ± 1.31', '-0.03', '0, 1, 2')
    assert rows[(*row, 'Top-1 (%)')] == expected
    expected = ('90.29', '90.00 ± 0.00', '-0.29', '0, 1, 2')
    assert rows[(*row, 'Top-5 (%)')] == expected
    # The paper's gain is 71.23 - 69.59.
    expected = ('1.64', '1.20', '-0.44', '0, 1, 2')
    assert rows[(*row, 'Top-1 (%), gain')] == expected
    expected = ('69.59', '70.00', '+0.41', '7')
    assert rows['ResNet-18', 'plain', 'Top-1 (%)'] == expected
    assert rows['ResNet-18', 'plain', 'Top-5 (%)'][1] == '-'
    assert 'instead of' not in show.text


def test_detection_units_and_missing_values(tmp_path, capsys):
    name = 'faster-rcnn_r101{}_fpn_1x_coco'
    for op, ap in (('', 0.391), ('-aw', 0.4)):
        metrics = {'coco/bbox_mAP': ap, 'coco/bbox_mAP_s': -1.0}
        craft(tmp_path / f'run{op}', name.format(op), metrics)
    rows = show(capsys, 'aw', 'coco_openmmlab', '--runs', tmp_path)
    model = 'Faster R-CNN ResNet-101-FPN', 'AWConv', 'COCO AP gain'
    assert rows[model] == ('0.63', '0.90', '+0.27', '0')
    model = 'Faster R-CNN R101-FPN 1x', 'plain', 'AP'
    assert rows[model] == ('39.4', '39.10', '-0.30', '0')
    runs, _ = TABLES.read_runs([str(tmp_path)])
    assert [TABLES.values([run], 'aps') for run in runs] == [[], []]


@pytest.mark.parametrize(
    'thresholds,expected', [(['50'], []), (['50', '75', '95'], [60.0])]
)
def test_voc_mean_of_one_threshold_is_not_ap(tmp_path, thresholds, expected):
    metrics = {f'pascal_voc/AP{t}': 0.6 for t in thresholds}
    metrics['pascal_voc/mAP'] = 0.6
    craft(tmp_path, 'faster-rcnn_r50_fpn_1x_voc0712', metrics)
    runs, _ = TABLES.read_runs([str(tmp_path)])
    assert TABLES.values(runs, 'ap50') == [60.0]
    assert TABLES.values(runs, 'ap') == expected


def test_other_settings_stay_apart(tmp_path, capsys):
    metrics = {'accuracy/top1': 50.0}
    change = {'optim_wrapper.optimizer.lr': 0.2}
    craft(tmp_path / 'changed', R18_RFA, metrics, time='20260102', **change)
    craft(tmp_path / 'plain', R18, {'accuracy/top1': 70.0})
    rows = show(capsys, 'imagenet', '--runs', tmp_path)
    row = 'ResNet-18', 'RFAConv'
    assert rows[(*row, 'Top-1 (%)')][1] == '50.00'
    assert f'`{R18_RFA}` *' in show.text
    assert 'optim_wrapper.optimizer.lr 0.2 instead of 0.1' in show.text
    assert rows[(*row, 'Top-1 (%), gain')][1] == '-'  # twin of another recipe
    # As soon as there is a run of the recipe, it alone counts.
    craft(tmp_path / 'exact', R18_RFA, {'accuracy/top1': 71.0})
    rows = show(capsys, 'imagenet', '--runs', tmp_path)
    assert rows[(*row, 'Top-1 (%)')] == ('71.23', '71.00', '-0.23', '0')
    assert rows[(*row, 'Top-1 (%), gain')][1] == '1.00'
    assert 'instead of' not in show.text


def test_where_the_data_lie_is_no_setting(tmp_path, capsys):
    options = {
        'train_dataloader.dataset.data_root': '/elsewhere',
        'train_dataloader.num_workers': 1,
        'default_hooks.logger.interval': 1,
    }
    craft(tmp_path, R18, {'accuracy/top1': 70.0}, **options)
    show(capsys, 'imagenet', '--runs', tmp_path)
    assert 'instead of' not in show.text


def test_of_one_seed_the_newest_run(tmp_path, capsys):
    # The work dirs sort the other way round.
    craft(tmp_path / 'b', R18, {'accuracy/top1': 1.0}, time='20260101_0')
    craft(tmp_path / 'a', R18, {'accuracy/top1': 2.0}, time='20260102_0')
    rows = show(capsys, 'imagenet', '--runs', tmp_path)
    assert rows['ResNet-18', 'plain', 'Top-1 (%)'][1:] == (
        '2.00',
        '-67.59',
        '0',
    )


def test_seed_that_was_drawn_is_in_the_log(tmp_path, capsys):
    for folder, seed in (('a', 11), ('b', 12)):
        place = craft(
            tmp_path / folder, R18, {'accuracy/top1': 1.0}, seed=None
        )
        (place / 'x.log').write_text(
            'Runtime environment:\n    cudnn_benchmark: True\n'
            f'    seed: {seed}\n    numpy_random_seed: 5\n'
        )
    rows = show(capsys, 'imagenet', '--runs', tmp_path)
    assert rows['ResNet-18', 'plain', 'Top-1 (%)'][3] == '11, 12'


def test_what_does_not_count_is_named(tmp_path, capsys):
    metrics = {'accuracy/top1': 70.0}
    craft(tmp_path / 'good', R18, metrics)
    craft(tmp_path / 'early', R18_RFA, metrics, step=99)
    craft(tmp_path / 'other', R18_RFA, metrics)
    (tmp_path / f'other/{R18_RFA}.py').rename(tmp_path / 'other/mine.py')
    craft(tmp_path / 'lost', R18_RFA, metrics)
    (tmp_path / f'lost/{R18_RFA}.py').unlink()
    rows = show(capsys, 'imagenet', '--runs', tmp_path)
    assert rows['ResNet-18', 'plain', 'Top-1 (%)'][1] == '70.00'
    assert rows['ResNet-18', 'RFAConv', 'Top-1 (%)'][1] == '-'
    notes = show.text.partition('Not counted:')[2].strip().splitlines()
    assert len(notes) == 3
    for part in (
        'is not finished, evaluated at 99 of 100',
        'mine is no config of the zoo',
        'holds no config',
    ):
        assert any(part in note for note in notes), notes


def test_a_work_dir_of_two_configs(tmp_path, capsys):
    craft(tmp_path, R18, {'accuracy/top1': 1.0}, time='a')
    craft(tmp_path, R18_RFA, {'accuracy/top1': 2.0}, time='b')
    rows = show(capsys, 'imagenet', '--runs', tmp_path)
    for conv, top1 in (('plain', '1.00'), ('RFAConv', '2.00')):
        assert rows['ResNet-18', conv, 'Top-1 (%)'][1] == top1


def test_scalars_cut_short(tmp_path, capsys):
    place = craft(tmp_path / 'run', R18, {'accuracy/top1': 70.0})
    scalars = place / 'vis_data/scalars.json'
    text = scalars.read_text()
    scalars.write_text(text + '{"lr": 0.1, "lo')  # being written
    rows = show(capsys, 'imagenet', '--runs', tmp_path)
    assert rows['ResNet-18', 'plain', 'Top-1 (%)'][1] == '70.00'
    scalars.write_text('garbage\n' + text)
    line = fail(capsys, 'imagenet', '--runs', tmp_path)
    assert 'scalars.json: expected JSON in line 1' in line


def test_nothing_run_gives_dashes_and_the_papers_numbers(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows = show(capsys)
    assert rows['ResNet-18', 'RFCAConv', 'Top-1 (%)'][0] == '72.01'
    assert rows['YOLOv8n', 'RFCAConv', 'APl'][0] == '53.5'
    assert rows['YOLOv5s', 'RFCAConv', 'AP, gain'][0] == '2.1'
    assert all(row[1:] == ('-', '-', '-') for row in rows.values())
    for table in load_paper_tables().values():
        assert f'## {table.title}\n' in show.text
        for row in table.rows:
            model = f'{row["model"]} {row.get("schedule", "")}'.strip()
            assert any(key[:2] == (model, row['conv']) for key in rows)


def test_commands_name_configs_that_exist(capsys):
    show(capsys, '--commands')
    lines = [shlex.split(s, comments=True) for s in show.text.splitlines()]
    lines = [words for words in lines if words]
    files = [REPO / words[2] for words in lines]
    assert all(file.is_file() for file in files)
    assert all((REPO / words[1]).is_file() for words in lines)
    names = [file.stem for file in files]
    for row in load_paper_tables()['imagenet'].rows:
        config = TABLES.CONFIGS['imagenet'][row['model']]
        assert config.format(TABLES.OPERATORS[row['conv']]) in names
    for name in ('resnet101_4xb32-100e_in1k', SEG.format('-rfca')):
        assert name in names  # the plain twin of a gain; rows of our own
    command = next(
        w for w, name in zip(lines, names, strict=True) if name == R18
    )
    assert command[0] == 'bash' and command[3] == '4'


def test_bad_input_gives_one_line_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / 'tables.md'
    out.write_text('old')
    empty = tmp_path / 'empty'
    empty.mkdir()
    craft(tmp_path / 'early', R18, {'accuracy/top1': 1.0}, step=5)
    for arguments, message in (
        (['imagnet'], "one of imagenet, voc0712, .*, got 'imagnet'"),
        (['--runs', empty], 'expected a finished training run, found none'),
        (['--runs', tmp_path / 'nowhere'], 'expected a finished training'),
        (['--runs', tmp_path / 'early'], 'evaluated at 5 of 100'),
    ):
        line = fail(capsys, *arguments, '--out', out)
        assert re.search(message, line), line
    assert out.read_text() == 'old'
    line = fail(capsys, 'aw', '--out', tmp_path / 'no/where.md')
    assert 'expected a folder' in line
    assert 'expected a file' in fail(capsys, 'aw', '--out', empty)
    assert not (tmp_path / 'no').exists()
    assert not list(empty.iterdir())


def test_out_writes_what_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    show(capsys, 'aw')
    shown = show.text
    show(capsys, 'aw', '--out', 'aw.md')
    assert show.text == ''
    assert Path('aw.md').read_text() == shown
    assert [path.name for path in tmp_path.iterdir()] == ['aw.md']
