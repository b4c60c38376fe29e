"""Rows and scalars, written and read again."""

import json
import re
import shutil
import subprocess

import pytest
from mmengine.config import Config

from mmrfa.errors import InputError
from mmrfa.results import origin
from mmrfa.results.origin import commit
from mmrfa.results.records import (
    add_record,
    as_runs,
    curve,
    digest,
    read_kept_scalars,
    read_records,
    scalars_file,
    scores_of,
    used_config,
    write_scalars,
)

from .crafted_runs import CONFIGS
from .rows import row

LINES = [
    dict(lr=0.1, loss=2.0, time=0.1, step=20),
    dict(mIoU=10.0, aAcc=50.0, time=0.1, step=200),
    dict(mIoU=12.5, aAcc=60.0, time=0.1, step=400),
]


def test_rows_come_back(tmp_path):
    assert read_records(tmp_path) == []
    rows = [row(seed=seed, val=seed + 0.25) for seed in range(3)]
    rows.append(row(form='RFAConv neutral', test=31.5))
    for each in rows:
        add_record(tmp_path, each)
    assert read_records(tmp_path) == rows
    again = row(seed=1, val=99.0)
    add_record(tmp_path, again)  # in the place of the former one
    assert read_records(tmp_path) == [rows[0], *rows[2:], again]
    assert [r.scored for r in rows[2:]] == ['val', 'test']


@pytest.mark.parametrize(
    ('old', 'new', 'line'),
    [
        ('study,form', 'form,study', 'expected the columns study, form'),
        (',30.0,', ',much,', "line 2: expected float for val, got 'much'"),
        ('plain,0,', 'plain,,', "line 2: expected int for seed, got ''"),
        (',30.0,', ',nan,', "line 2: expected float for val, got 'nan'"),
        (f',{"f" * 64}\n', '\n', 'line 2: expected 21 cells, got 20'),
        ('f\n', 'f,more\n', 'line 2: expected 21 cells, got 22'),
        ('"{""a.b"": 1}"', '[]', 'a JSON object for options, got'),
        ('"{""a.b"": 1}"', '{a', 'a JSON object for options, got'),
    ],
)
def test_another_table_is_refused(tmp_path, old, new, line):
    add_record(tmp_path, row())
    path = tmp_path / 'runs.csv'
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match='runs.csv: .*') as caught:
        read_records(tmp_path)
    assert line in str(caught.value)


def test_a_run_that_is_there_twice(tmp_path):
    """As after a merge of two branches."""
    add_record(tmp_path, row())
    path = tmp_path / 'runs.csv'
    path.write_text(path.read_text() + path.read_text().splitlines()[1])
    with pytest.raises(InputError, match='line 3: .* camvid, plain, 0 again'):
        read_records(tmp_path)


def test_scalars_come_back(tmp_path):
    path = scalars_file(tmp_path, 'camvid', 'RFAConv neutral', 2)
    assert path.name == 'rfaconv_neutral-2.jsonl.gz'
    lines = [*LINES, dict(test=dict(mIoU=14.0))]
    write_scalars(path, lines)
    first = path.read_bytes()
    write_scalars(path, lines)
    assert path.read_bytes() == first
    assert read_kept_scalars(path) == lines
    assert scores_of(lines, 'miou') == (12.5, 14.0)
    assert scores_of(LINES, 'miou') == (12.5, None)
    assert curve(lines, 'miou') == {200: 10.0, 400: 12.5}
    for damage in (first[:-9], b'', b'text'):
        path.write_bytes(damage)
        with pytest.raises(InputError, match='cannot be read'):
            read_kept_scalars(path)


def test_ap_is_per_cent():
    lines = [{'coco/bbox_mAP_50': 0.5, 'step': 100}]
    assert scores_of(lines, 'ap50') == (50.0, None)
    assert curve(lines, 'ap50') == {100: 50.0}
    voc = [{'pascal_voc/AP50': 0.5, 'step': 3}]
    assert curve(voc, 'ap50') == {3: 50.0}


def test_rows_fill_the_tables_of_the_zoo(tmp_path):
    """As runs; those of other settings or of a former config say so."""
    config = row().config
    recipe = digest(used_config(CONFIGS[config], {}))
    options = {'train_cfg.max_iters': 400}
    short = digest(used_config(CONFIGS[config], options))
    assert short != recipe
    rows = [
        row(seed=0, options='{}', recipe=recipe),
        row(seed=1, options=json.dumps(options), recipe=short),
        row(seed=2, options='{}'),
        row(seed=3, options='{}', config='gone'),
    ]
    for each in rows:
        add_record(tmp_path, each)
        write_scalars(scalars_file(tmp_path, *each.key), LINES)
    runs = as_runs(tmp_path, CONFIGS)
    assert [run.score('miou') for run in runs] == [12.5] * 4
    assert [run.changes for run in runs] == [
        (),
        ('train_cfg.max_iters 400',),
        ('the config as it was at abc',),
        ('the config as it was at abc',),
    ]


def test_digest_is_of_the_recipe(tmp_path):
    """Not of folders, workers and text; of every setting that matters."""
    path = CONFIGS[row().config]
    plain = digest(used_config(path, {}))
    same = {
        'train_dataloader.num_workers': 7,
        'train_dataloader.dataset.data_root': 'elsewhere',
        'default_hooks.logger.interval': 3,
    }
    assert digest(used_config(path, same)) == plain
    for key, value in {
        'optim_wrapper.optimizer.lr': 1e-4,
        'model.backbone.attention_conv': dict(type='RFAConv'),
        'param_scheduler.1.end': 400,
        'train_dataloader.batch_size': 4,
        'train_dataloader.dataset.ann_file': 'part.txt',
        'default_hooks.param_scheduler': dict(type='Other'),
        'default_hooks.sampler_seed': None,
        'data_preprocessor': dict(type='SegDataPreProcessor'),
        'auto_scale_lr.base_batch_size': 64,
        'sync_bn': 'torch',
    }.items():
        assert digest(used_config(path, {key: value})) != plain, key
    assert isinstance(used_config(path, {}), dict)
    assert not isinstance(used_config(path, {}), Config)


def test_digest_is_of_lists_below_the_data():
    """Wherever the data lie; as the whole list or as a part of it."""
    path = CONFIGS['yolov8_n_1xb8-40e_bccd']
    plain = digest(used_config(path, {}))
    elsewhere = {
        f'{split}_dataloader.dataset.data_root': '/else/where'
        for split in ('train', 'val', 'test')
    }
    name = 'val_evaluator.ann_file'
    elsewhere[name] = '/else/where/annotations/instances_val.json'
    assert digest(used_config(path, elsewhere)) == plain
    elsewhere[name] = '/else/where/tenth/instances_val.json'
    assert digest(used_config(path, elsewhere)) != plain
    key = 'train_dataloader.dataset.ann_file'
    part = {key: 'tenth/instances_train.json'}
    assert digest(used_config(path, part)) != plain


def test_options_that_do_not_fit():
    path = CONFIGS[row().config]
    with pytest.raises(InputError, match='do not fit config'):
        used_config(path, {'train_cfg.max_iters.a': 1})


@pytest.mark.skipif(not shutil.which('git'), reason='needs git')
def test_commit(monkeypatch, tmp_path):
    file = tmp_path / 'mmrfa/a.py'
    file.parent.mkdir()
    file.write_text('a = 1')
    author = '-c', 'user.name=a', '-c', 'user.email=a@b.c'
    for words in (
        ('init', '-q'),
        ('add', '.'),
        (*author, 'commit', '-q', '--no-gpg-sign', '-m', 'a'),
    ):
        subprocess.run(['git', '-C', tmp_path, *words], check=True)
    monkeypatch.setattr(origin, '__file__', str(file))
    clean = commit()
    assert re.fullmatch(r'[0-9a-f]{12}', clean)
    file.write_text('a = 2')
    assert commit() == f'{clean}+'
    other = file.with_name('other.py')  # as in an environment in a clone
    other.write_text('')
    monkeypatch.setattr(origin, '__file__', str(other))
    assert commit() == 'unknown'
    monkeypatch.setattr(origin, '__file__', str(file))
    monkeypatch.setenv('PATH', str(tmp_path))
    assert commit() == 'unknown'
