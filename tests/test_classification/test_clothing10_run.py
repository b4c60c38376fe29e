"""Train and test a classifier on photographs, through the tools."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
needs_mmpretrain = pytest.mark.skipif(
    find_spec('mmpretrain') is None,
    reason='needs mmpretrain; `make test-classification` has it',
)
CONFIG = REPO / 'configs/imagenet/resnet18-rfa_1xb32-20e_clothing10-64x64.py'


def tool(
    name: str, *arguments: object, cwd: Path, data: Path | str
) -> subprocess.CompletedProcess:
    path = os.pathsep.join(
        filter(None, [str(REPO), os.environ.get('PYTHONPATH')])
    )
    env = dict(os.environ, PYTHONPATH=path, MMRFA_DATA_ROOT=str(data))
    return subprocess.run(
        [sys.executable, REPO / 'tools' / name, *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.skipif(find_spec('mmpretrain') is not None, reason='has it')
def test_without_mmpretrain_one_line_says_so(tmp_path):
    done = tool(
        'train.py', CONFIG, '--work-dir', 'run', cwd=tmp_path, data='none'
    )
    errors = [s for s in done.stderr.splitlines() if 'error' in s.lower()]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1, done.stderr
    assert re.search(
        r'needs package (onedl-)?mmpretrain, which is not installed; pip '
        r'install (onedl-)?mmpretrain$',
        errors[0],
    )
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope='module')
def photographs(data_root, tmp_path_factory) -> Path:
    """A data root with a few real photographs of each class."""
    root = tmp_path_factory.mktemp('photographs')
    source = data_root('clothing10')
    # The same for val and test, so that both tools must find the same.
    for split, origin, count in (
        ('train', 'train', 4),
        ('val', 'val', 3),
        ('test', 'val', 3),
    ):
        for folder in sorted((source / origin).iterdir()):
            target = root / 'clothing10' / split / folder.name
            target.mkdir(parents=True)
            for file in sorted(folder.glob('*.jpg'))[:count]:
                shutil.copy(file, target)
    assert len(list(root.rglob('*.jpg'))) == 100
    return root


@needs_mmpretrain
def test_all_its_data_is_looked_at(photographs, tmp_path):
    done = tool('misc/check_data.py', CONFIG, cwd=tmp_path, data=photographs)
    assert done.returncode == 0, done.stderr
    for split, count in ('train', 40), ('val', 30), ('test', 30):
        assert f'{split}_dataloader: {count} images' in done.stdout


@needs_mmpretrain
def test_learns_and_its_checkpoint_tests_alike(photographs, tmp_path):
    done = tool(
        'train.py',
        CONFIG,
        '--work-dir',
        'run',
        '--cfg-options',
        'train_dataloader.batch_size=20',
        'train_cfg.max_epochs=6',
        'train_cfg.val_interval=6',
        'default_hooks.logger.interval=1',
        'param_scheduler.0.start_factor=0.5',
        'randomness.seed=0',
        cwd=tmp_path,
        data=photographs,
    )
    assert done.returncode == 0, done.stderr
    (scalars,) = tmp_path.glob('run/*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 12
    # Each is the mean of the last ten iterations, or as many as there were.
    assert losses[-1] < losses[1] - 0.1, losses
    (top1,) = [s['accuracy/top1'] for s in lines if 'accuracy/top1' in s]

    done = tool(
        'test.py',
        CONFIG,
        tmp_path / 'run/epoch_6.pth',
        '--work-dir',
        'test',
        cwd=tmp_path,
        data=photographs,
    )
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob('test/*/*.json')
    assert json.loads(result.read_text())['accuracy/top1'] == top1

    done = tool(
        'predict.py',
        CONFIG,
        tmp_path / 'run/epoch_6.pth',
        photographs / 'clothing10/test/*/*.jpg',
        '--out',
        'predicted',
        cwd=tmp_path,
        data=photographs,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'predicted/predictions.json').read_text())
    right = [Path(one['file']).parent.name == one['class'] for one in found]
    assert len(right) == 30
    assert 100 * sum(right) / 30 == pytest.approx(top1, abs=0.01)
