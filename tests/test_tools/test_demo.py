"""What `make demo` calls besides training and testing, in its order."""

import importlib.util
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrfa.errors import InputError

from .tool_calls import REPO

(CONFIG,) = (REPO / 'configs/demo').glob('*.py')
SHORT = (
    '--cfg-options',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=2',
)


@pytest.fixture
def result():
    """``main`` of scripts/demo_result.py."""
    spec = importlib.util.spec_from_file_location(
        'demo_result', REPO / 'scripts/demo_result.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def leave_result(
    work_dir: Path, miou: float, time: str = '20260102_030405'
) -> Path:
    """A work dir with what tools/test.py leaves."""
    file = work_dir / 'test' / time / f'{time}.json'
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(dict(mIoU=miou)))
    return work_dir


def scalars(work_dir: Path, time: str, *records: dict) -> Path:
    """A work dir with MMEngine's log of a run."""
    file = work_dir / time / 'vis_data/scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(json.dumps(r) + '\n' for r in records))
    return work_dir


def test_every_step_of_the_demo(call, capsys, tmp_path, result) -> None:
    """Two iterations: the files that the Makefile names are the right ones."""
    run = tmp_path / 'run'
    assert call('train.py', CONFIG, '--work-dir', run, *SHORT) == 0
    predictions = run / 'predictions.pkl'
    assert (
        call(
            'test.py', CONFIG, run / 'iter_2.pth',
            '--work-dir', run / 'test', '--out', predictions,
        )
        == 0
    )  # fmt: skip
    assert call('analysis_tools/plot_curves.py', run) == 0
    show = 'analysis_tools/show_predictions.py'
    assert call(show, CONFIG, predictions, run / 'pictures', '--num', 3) == 0
    assert Image.open(run / 'curves.png').width > 800  # loss and mIoU
    pictures = sorted(p.name for p in (run / 'pictures').iterdir())
    assert pictures == [f'sample_{i:06d}.png' for i in (160, 161, 162)]
    capsys.readouterr()
    assert result([str(run), '--min-miou', '99.9']) == 1
    said = capsys.readouterr()
    assert 'has not learned' in said.err
    assert f'{run}/pictures' in said.out and f'{run}/curves.png' in said.out
    # The makefile's names agree.
    makefile = (REPO / 'Makefile').read_text()
    assert CONFIG.relative_to(REPO).as_posix() in makefile
    iters = re.search(r'iter_(\d+)\.pth', makefile)[1]
    assert f'max_iters = {iters}\n' in CONFIG.read_text()


@pytest.mark.parametrize(
    ('miou', 'status'), [(80.0, 0), (79.9, 1), (float('nan'), 1)]
)
def test_result_fails_below_the_mark(
    tmp_path, capsys, result, miou, status
) -> None:
    leave_result(tmp_path, 99.0, '20250101_000000')
    leave_result(tmp_path, miou)  # the newer one counts
    assert result([str(tmp_path)]) == status
    assert f'{miou:.2f} %' in capsys.readouterr().out


def test_result_without_a_test(tmp_path, capsys, result) -> None:
    assert result([str(tmp_path)]) == 1
    assert 'no test result' in capsys.readouterr().err


def test_curves_are_of_the_newest_training(tmp_path, call, capsys) -> None:
    scalars(tmp_path, '2026_1', dict(step=1, loss=9.0))
    scalars(
        tmp_path,
        '2026_2',
        dict(step=5, loss=2.0),
        dict(step=5, mIoU=40.0),
        dict(step=9, loss=1.0),
    )
    scalars(tmp_path, '2026_3', dict(step=0, mIoU=50.0))  # a test, no loss
    spec = importlib.util.spec_from_file_location(
        'plot_curves', REPO / 'tools/analysis_tools/plot_curves.py'
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    losses, metrics = tool.read_curves(tmp_path, None)
    assert losses == [(5, 2.0), (9, 1.0)]
    assert metrics == {'mIoU': [(5, 40.0)]}
    scalars(
        tmp_path,
        '2026_4',
        dict(step=9, loss=0.9),
        dict(step=13, loss=0.5),
        dict(step=13, mIoU=45.0),
    )
    (tmp_path / '2026_4/vis_data/config.py').write_text('resume = True')
    losses, metrics = tool.read_curves(tmp_path, ['mIoU'])
    assert losses == [(5, 2.0), (9, 0.9), (13, 0.5)]
    assert metrics == {'mIoU': [(5, 40.0), (13, 45.0)]}
    # What a start left that others went back behind is not of the run.
    scalars(tmp_path, '2026_5', dict(step=7, epoch=6, loss=0.8))
    (tmp_path / '2026_5/vis_data/config.py').write_text('resume = "auto"')
    losses, metrics = tool.read_curves(tmp_path, None)
    assert losses == [(5, 2.0), (7, 0.8)]
    assert metrics == {'mIoU': [(5, 40.0)]}
    with pytest.raises(InputError, match='log has, mIoU, got mAcc'):
        tool.read_curves(tmp_path, ['mIoU', 'mAcc'])
    empty = tmp_path / 'empty'
    assert call('analysis_tools/plot_curves.py', empty) == 2
    assert str(empty) in capsys.readouterr().err
    assert not empty.exists()


def test_pictures_show_truth_and_prediction(tmp_path, call) -> None:
    """Left the photograph, then each mask in the colours of its classes."""
    photo = tmp_path / 'photo.png'
    Image.new('RGB', (8, 8), (128, 128, 128)).save(photo)
    results = [
        dict(
            img_path=str(photo),
            gt_sem_seg=dict(data=np.full((1, 8, 8), 1)),
            pred_sem_seg=dict(data=np.full((1, 8, 8), 2)),
        )
    ]
    (tmp_path / 'p.pkl').write_bytes(pickle.dumps(results))
    show = 'analysis_tools/show_predictions.py'
    out = tmp_path / 'out'
    assert call(show, CONFIG, tmp_path / 'p.pkl', out) == 0
    picture = np.asarray(Image.open(out / 'photo.png').convert('RGB'))
    h, w = picture.shape[:2]
    seen = [tuple(picture[h // 2, w * k // 6].tolist()) for k in (1, 3, 5)]
    assert seen == [(128, 128, 128), (230, 60, 60), (60, 90, 230)]


@pytest.mark.parametrize(
    'content', [None, b'', pickle.dumps([dict(img_path='a.jpg')])]
)
def test_pictures_need_a_segmentation_test(
    tmp_path, call, capsys, content
) -> None:
    file = tmp_path / 'p.pkl'
    if content is not None:
        file.write_bytes(content)
    show = 'analysis_tools/show_predictions.py'
    assert call(show, CONFIG, file, tmp_path / 'out') == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if 'error' in x]
    assert str(file) in line
    assert not (tmp_path / 'out').exists()
