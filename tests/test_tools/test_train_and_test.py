"""Training, resuming and testing on the sample."""

import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmrfa.checkpoints.reading import load_checkpoint_file
from mmrfa.errors import InputError

from .tool_calls import (
    TINY_SEG,
    TOOLS,
    environment,
    error_of,
    load_tool,
    run_script,
)


def losses(work_dir: Path) -> dict[int, float]:
    """Loss by iteration, from the log that the latest run wrote."""
    log = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return {row['step']: row['loss'] for row in rows if 'loss' in row}


def load(path: Path) -> dict:
    return torch.load(path, weights_only=False)


def test_trains_from_any_folder(trained: Path) -> None:
    loss = losses(trained)
    assert list(loss) == [1, 2, 3, 4, 5, 6]
    assert all(map(math.isfinite, loss.values()))
    assert loss[6] < loss[1]
    assert {p.name for p in trained.glob('*.pth')} == {
        'iter_3.pth',
        'iter_6.pth',
    }
    first, last = load(trained / 'iter_3.pth'), load(trained / 'iter_6.pth')
    name = 'decode_head.conv_seg.weight'
    assert not torch.equal(first['state_dict'][name], last['state_dict'][name])


def test_own_checkpoint_needs_no_trust(trained) -> None:
    """With log history, optimizer state and the data set's description."""
    content = load_checkpoint_file(trained / 'iter_6.pth')
    history = content['message_hub']['log_scalars']['train/loss']
    assert history.data[0].shape == (6,)
    assert math.isfinite(history.mean(6))
    assert content['meta']['dataset_meta']['classes'][1] == 'ball'
    assert content['optimizer']['state']


class Cwd:
    """Calls a harmless function when it is unpickled."""

    def __reduce__(self):
        return os.getcwd, ()


def test_tools_pass_on_the_trust(call, trained, tmp_path, capsys) -> None:
    content = torch.load(trained / 'iter_6.pth', weights_only=False)
    content['meta']['code'] = Cwd()
    path = tmp_path / 'a.pth'
    torch.save(content, path)
    arguments = TINY_SEG, path, '--work-dir', tmp_path / 'work'
    assert call('test.py', *arguments) == 2
    assert 'refused to run' in capsys.readouterr().err
    assert call('test.py', *arguments, '--trust-checkpoint') == 0


@pytest.mark.parametrize('how', ['auto', 'file', 'older names'])
def test_resume_continues(call, trained, tmp_path, how) -> None:
    checkpoint = trained / 'iter_6.pth'
    if how == 'auto':
        (tmp_path / 'last_checkpoint').write_text(str(checkpoint))
    if how == 'older names':  # of operators, before they owned their weight
        content = load(checkpoint)
        content['state_dict'] = {
            re.sub(r'(layer4\.\d\.conv1)\.(weight|bias)', r'\1.conv.\2', k): v
            for k, v in content['state_dict'].items()
        }
        checkpoint = tmp_path / 'older.pth'
        torch.save(content, checkpoint)
    resume = ['--resume'] + [checkpoint] * (how != 'auto')
    options = ['train_cfg.max_iters=8', 'train_cfg.val_interval=100']
    status = call(
        'train.py', TINY_SEG, '--work-dir', tmp_path, *resume,
        '--cfg-options', *options,
    )  # fmt: skip
    assert status == 0
    assert list(losses(tmp_path)) == [7, 8]
    written = load(tmp_path / 'iter_8.pth')
    assert written['meta']['iter'] == 8
    steps = {s['step'].item() for s in written['optimizer']['state'].values()}
    assert steps == {8.0}


def test_scales_the_learning_rate(call, tmp_path) -> None:
    """Batch 4 where the config states 8: half the rate."""
    status = call(
        'train.py', TINY_SEG, '--work-dir', tmp_path, '--auto-scale-lr',
        '--cfg-options', 'train_cfg.max_iters=1', 'param_scheduler=[]',
        'train_cfg.val_interval=100', 'default_hooks.checkpoint.interval=1',
    )  # fmt: skip
    assert status == 0
    groups = load(tmp_path / 'iter_1.pth')['optimizer']['param_groups']
    assert {group['lr'] for group in groups} == {5e-4}


def test_tests_dumps_and_draws(call, trained, tmp_path) -> None:
    predictions = {}
    for name, options in {'plain': (), 'tta': ('--tta',)}.items():
        out = tmp_path / f'{name}.pkl'
        pictures = tmp_path / f'{name}_pictures'
        status = call(
            'test.py', TINY_SEG, trained / 'iter_6.pth',
            '--work-dir', tmp_path / name, '--out', out,
            '--show-dir', pictures, *options,
        )  # fmt: skip
        assert status == 0
        assert len(list(pictures.rglob('*.png'))) == 4
        predictions[name] = pickle.loads(out.read_bytes())
        assert len(predictions[name]) == 4
    for plain, tta in zip(*predictions.values(), strict=True):
        assert plain['img_path'] == tta['img_path']
        assert plain['pred_sem_seg']['data'].shape == (1, 96, 96)
        assert not torch.equal(
            plain['seg_logits']['data'], tta['seg_logits']['data']
        )


def test_a_full_disk_leaves_former_predictions(
    call, trained, tmp_path, capsys, monkeypatch
) -> None:
    def fail(content, path):
        Path(path).write_text('half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('mmengine.fileio.dump', fail)
    out = tmp_path / 'out' / 'former.pkl'
    out.parent.mkdir()
    out.write_text('kept')
    status = call(
        'test.py', TINY_SEG, trained / 'iter_6.pth',
        '--work-dir', tmp_path, '--out', out,
    )  # fmt: skip
    captured = capsys.readouterr()
    assert error_of(status, captured.err) == (
        f'error: No space left on device: {out}'
    )
    assert 'predictions: ' not in captured.out
    assert out.read_text() == 'kept' and [*out.parent.iterdir()] == [out]


def test_predictions_beside_any_evaluator(capsys) -> None:
    """MMEngine takes an Evaluator's settings as well as metrics."""
    tool = load_tool('test.py')
    iou = dict(type='IoUMetric')
    for given in (iou, [iou], dict(type='Evaluator', metrics=[iou])):
        config = Config(dict(test_evaluator=given))
        tool.dump_predictions(config, 'a.pkl')
        kinds = [metric['type'] for metric in config.test_evaluator]
        assert kinds == ['IoUMetric', 'DumpResults']
    with pytest.raises(InputError, match='--out: expected test_evaluator'):
        tool.dump_predictions(Config(dict(test_evaluator=None)), 'a.pkl')
    with pytest.raises(InputError, match='tta_pipeline and test_dataloader'):
        tool.use_tta(Config(dict(tta_model={})))


def test_two_processes_on_cpu(tmp_path, sample_root) -> None:
    done = run_script(
        'dist_train.sh', TINY_SEG, 2, '--work-dir', 'run', '--cfg-options',
        'train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=2',
        # their end is the end of the run, too
        'train_dataloader.num_workers=1',
        'train_dataloader.persistent_workers=True',
        cwd=tmp_path, MMRFA_DATA_ROOT=sample_root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'GPU number: 2' in done.stdout
    assert 'SyncBN became GlooSyncBN in 2 places' in done.stdout
    assert [p.name for p in tmp_path.rglob('*.pth')] == ['iter_2.pth']
    loss = losses(tmp_path / 'run')
    assert list(loss) == [1, 2]
    assert all(map(math.isfinite, loss.values()))

    tested = run_script(
        'dist_test.sh', TINY_SEG, 'run/iter_2.pth', 2, '--work-dir', 'run',
        '--out', 'out.pkl', cwd=tmp_path, MMRFA_DATA_ROOT=sample_root,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stderr
    # Each process saw half of the images; the file holds them all, in order.
    results = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    names = [Path(result['img_path']).name for result in results]
    assert len(names) == 4
    assert names == sorted(set(names))


def test_two_processes_are_stopped(tmp_path, sample_root) -> None:
    """By torchrun, which signals the workers of both as well."""
    log, work = tmp_path / 'log.txt', tmp_path / 'run'
    with log.open('w') as out:
        run = subprocess.Popen(
            ['bash', TOOLS / 'dist_train.sh', TINY_SEG.with_name(
                'tinier_seg.py'), '2', '--work-dir', work, '--cfg-options',
             'train_cfg.max_iters=100000', 'train_cfg.val_interval=100000',
             'train_dataloader.num_workers=1',
             'default_hooks.checkpoint.interval=100000'],
            stdout=out, stderr=out,
            env=environment(MMRFA_DATA_ROOT=sample_root),
        )  # fmt: skip
    try:
        while 'Iter(train)' not in log.read_text():
            assert run.poll() is None, log.read_text()
            time.sleep(0.1)
        run.terminate()
        assert run.wait(60) == 128 + signal.SIGTERM, log.read_text()
    finally:
        run.kill()
    (saved,) = work.glob('*.pth')
    text = log.read_text()
    assert text.count('stopped by SIGTERM after iteration') == 1
    assert f'saved {saved}; to go on: torchrun --nproc_per_node=2' in text
    assert 'Traceback' not in text


@pytest.mark.parametrize(
    ('tool', 'arguments'),
    [
        ('dist_train.sh', ['config.py']),
        ('dist_train.sh', ['config.py', 'two']),
        ('dist_test.sh', ['config.py', '2']),
        ('slurm_train.sh', ['partition']),
        ('slurm_test.sh', ['partition', 'job', 'config.py']),
    ],
)
def test_scripts_say_what_they_need(tool, arguments, tmp_path) -> None:
    done = run_script(tool, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith('error: expected ')
    assert len(done.stderr.splitlines()) == 1


def test_slurm_starts_one_task_per_gpu(tmp_path) -> None:
    """A stand-in for srun shows what would be started."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    path = f'{tmp_path}:/usr/bin:/bin'
    done = run_script(
        'slurm_test.sh', 'part', 'job', 'config.py', 'a.pth', '--out', 'o.pkl',
        cwd=tmp_path, PATH=path, GPUS=16,
    )  # fmt: skip
    words = done.stdout.splitlines()
    assert {'--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8'} < set(words)
    at = words.index('config.py')
    assert words[at - 1].endswith('tools/test.py')
    assert words[at:] == [
        'config.py', 'a.pth', '--out', 'o.pkl', '--launcher', 'slurm',
    ]  # fmt: skip


def test_tools_need_no_repository(tmp_path) -> None:
    """Those in a folder too work from another one."""
    done = run_script('misc/print_config.py', '--help', cwd=tmp_path)
    assert done.returncode == 0
    assert '--cfg-options' in done.stdout


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_tools_need_the_package(tmp_path, tool) -> None:
    """One line where mmrfa is not installed."""
    path = shutil.copy(TOOLS / tool, tmp_path)
    done = subprocess.run(
        [sys.executable, '-I', '-S', path], capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: No module named 'mmrfa'; install mmrfa")
