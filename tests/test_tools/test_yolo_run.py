"""YOLOv8n with RFAConv on BCCD, by the tools; and without mmyolo."""

import importlib
import json
import math
import pickle
import sys
from importlib import metadata

import mmcv
import pytest
from mmengine.config import config
from packaging.version import Version

from mmrfa.engine.config import import_scope
from mmrfa.errors import InputError
from mmrfa.openmmlab import package_of

from .tool_calls import REPO, error_of

CONFIG = REPO / 'configs/yolov8/yolov8_n-rfa_1xb8-100e_bccd.py'
SHORT = """
_base_ = 'CONFIG'
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(indices=2),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(indices=2),
)
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(indices=2),
)
train_cfg = dict(max_epochs=2, val_interval=2)
custom_hooks = [
    _base_.custom_hooks[0],
    dict(_base_.custom_hooks[1], switch_epoch=1),
]
default_hooks = dict(
    checkpoint=dict(interval=1, save_best=None), logger=dict(interval=1)
)
model = dict(test_cfg=dict(score_thr=0.0, max_per_img=20))
randomness = dict(seed=0)
"""


def losses(work_dir) -> dict[int, float]:
    log = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r['coco/bbox_mAP'] for r in rows if 'coco/bbox_mAP' in r]
    return {row['step']: row['loss'] for row in rows if 'loss' in row}


@pytest.fixture(scope='module')
def bccd(mmyolo, data_root) -> str:
    """Its data root, found before ``call`` names another one."""
    return str(data_root('bccd').parent)


def test_trains_goes_on_tests_and_draws(
    bccd, call, monkeypatch, tmp_path, capfd
):
    monkeypatch.setenv('MMRFA_DATA_ROOT', bccd)
    # MMEngine writes the config often, and its layout costs a second.
    layout = 'yapf.yapflib.yapf_api.FormatCode'
    monkeypatch.setattr(layout, lambda code, **_: (code, True))
    short, run = tmp_path / 'short.py', tmp_path / 'run'
    short.write_text(SHORT.replace('CONFIG', str(CONFIG)))
    assert call('train.py', short, '--work-dir', run) == 0
    assert 'Switch pipeline now!' in ''.join(capfd.readouterr())
    loss = losses(run)
    assert list(loss) == [1, 2] and all(map(math.isfinite, loss.values()))

    longer = '--resume', '--cfg-options', 'train_cfg.max_epochs=3'
    assert call('train.py', short, '--work-dir', run, *longer) == 0
    assert list(losses(run)) == [3]

    out, pictures = tmp_path / 'out.pkl', tmp_path / 'pictures'
    status = call(
        'test.py', short, run / 'epoch_3.pth', '--work-dir', run,
        '--out', out, '--show-dir', pictures, '--tta',
    )  # fmt: skip
    assert status == 0
    assert len(pickle.loads(out.read_bytes())) == 2
    assert len(list(pictures.rglob('*.jpg'))) == 2


def test_mmcv_keeps_its_number(mmyolo):
    """mmyolo, imported beside it, refuses it."""
    importlib.import_module('mmrfa.models.mmyolo')
    assert 'mmyolo.models' in sys.modules
    installed = metadata.version(package_of('mmcv'))
    assert mmcv.__version__ == installed
    assert Version(installed) >= Version('2.1')


def test_without_mmyolo_one_line_says_so(call, capsys, monkeypatch):
    monkeypatch.setattr(config, 'is_installed', lambda name: False)
    line = error_of(call('train.py', CONFIG), capsys.readouterr().err)
    assert line.endswith('pip install mmyolo')
    # Where a config only names its scope.
    monkeypatch.setitem(sys.modules, 'mmyolo', None)
    monkeypatch.delitem(sys.modules, 'mmrfa.models.mmyolo', raising=False)
    with pytest.raises(InputError, match='pip install mmyolo$'):
        import_scope(dict(default_scope='mmyolo'))
