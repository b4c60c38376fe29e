"""tools/analysis_tools/paper_tables.py, and the reading of a real run."""

import json
import re
import shlex
from pathlib import Path

from mmrfa.results import tables
from mmrfa.results.published import paper_table
from mmrfa.results.runs import collect_runs
from mmrfa.results.zoo import config_files, variant

from ..test_results.crafted_runs import craft
from .tool_calls import REPO, TINY_SEG, error_of

TOOL = 'analysis_tools/paper_tables.py'
R18 = 'resnet18_4xb32-100e_in1k'


def test_a_real_run_is_read(trained):
    (run,), notes = collect_runs(trained, {'tiny_seg': TINY_SEG})
    (file,) = trained.glob('*/vis_data/scalars.json')
    last = json.loads(file.read_text().splitlines()[-1])
    assert run.score('miou') == last['mIoU']
    assert run.config == 'tiny_seg' and run.seed == 0
    assert run.changes == () and notes == []


def test_runs_on_the_screen_and_in_a_file(call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    craft(tmp_path / 'work_dirs/r18', R18, {'accuracy/top1': 70.0})
    craft(tmp_path / 'work_dirs/early', R18, {'accuracy/top1': 1.0}, step=5)
    capsys.readouterr()
    assert call(TOOL, 'imagenet') == 0
    shown = capsys.readouterr().out
    assert shown.startswith('## ImageNet-1k')  # no line of MMEngine's log
    assert f'| `{R18}` | Top-1 | 69.59 | 70.00 | +0.41 | 0 |' in shown
    assert shown.endswith('is not finished, evaluated at 5 of 100\n')
    arguments = 'imagenet', '--runs', 'work_dirs/r18', '--out', 'out.md'
    assert call(TOOL, *arguments) == 0
    assert capsys.readouterr().out == ''
    assert Path('out.md').read_text() == shown.partition('\nNot counted')[0]
    assert {path.name for path in tmp_path.iterdir()} == {
        'work_dirs',
        'out.md',
    }


def test_costs(call, capsys, monkeypatch):
    """Which tables, and in which units; what is counted: test_results."""
    monkeypatch.setattr(
        tables, 'count_config', lambda path, size, seen=0: (5e6, 6e9)
    )
    assert call(TOOL, '--costs') == 0
    out = capsys.readouterr().out
    assert out.count('## ') == 3
    assert '| `resnet18_4xb32-100e_in1k` | 5.000 | 11.690 | 6.000 |' in out
    # YOLOv5 takes a multiply-add for two operations.
    assert '| `yolov5_n_8xb16-300e_coco` | 5.000 | 1.8 | 12.000 | 4.5 |' in out


def test_commands_name_configs_that_exist(call, capsys):
    assert call(TOOL, '--commands') == 0
    out = capsys.readouterr().out
    lines = [shlex.split(line, comments=True) for line in out.splitlines()]
    named = [Path(words[2]).stem for words in lines if words]
    assert len(named) == len(set(named))
    lines = {Path(words[2]).stem: words for words in lines if words}
    for words in lines.values():
        assert (REPO / words[1]).is_file() and (REPO / words[2]).is_file()
    table = paper_table('imagenet')
    for row in table.rows:
        assert variant(table.configs[row['model']], row['conv']) in lines
    seg = 'deeplabv3plus_r18-rfca-d16_4xb4-20k_voc12aug-512x512'
    for name in ('resnet101_4xb32-100e_in1k', seg):
        assert name in lines  # the plain twin of a gain; rows of our own
    assert lines.keys() <= config_files(REPO).keys()
    assert lines[R18][0] == 'bash' and lines[R18][3] == '4'


def test_bad_input_gives_one_line_and_writes_nothing(call, capsys, tmp_path):
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
        (['aw_coco', '--costs'], 'voc0712, coco, got aw_coco'),
        (['aw_coco', '--out', tmp_path / 'no/where.md'], 'expected a folder'),
        (['aw_coco', '--out', empty], 'expected a file'),
    ):
        status = call(TOOL, '--out', out, *arguments)
        line = error_of(status, capsys.readouterr().err)
        assert re.search(message, line), line
    assert out.read_text() == 'old'
    assert not (tmp_path / 'no').exists()
    assert not list(empty.iterdir())
