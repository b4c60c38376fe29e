"""YOLOv8n with RFAConv on BCCD, by the tools; and without mmyolo."""

import importlib
import json
import math
import pickle
import sys
from importlib import metadata

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import config
from packaging.version import Version
from PIL import Image

from mmrfa.deploy.cam import Cam
from mmrfa.deploy.description import describe
from mmrfa.deploy.network import build_network
from mmrfa.deploy.outputs import Outputs
from mmrfa.deploy.parts import part_of
from mmrfa.deploy.predictor import Predictor, way
from mmrfa.deploy.sources import Source
from mmrfa.engine.config import import_scope, load_config
from mmrfa.errors import InputError
from mmrfa.openmmlab import package_of

from .tool_calls import REPO, error_of

CONFIG = REPO / 'configs/yolov8/yolov8_n-rfa_1xb8-40e_bccd.py'
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


def test_a_program_takes_the_place_of_its_network(bccd, tmp_path):
    """As far as its head, at multiples of its coarsest stride."""
    image = tmp_path / 'photo.png'
    pixels = np.random.randint(0, 255, (90, 160, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    config = load_config(str(CONFIG))
    config.model.test_cfg.score_thr = 0.0
    model, other = (build_network(config) for _ in '12')
    other.load_state_dict(model.state_dict())
    source = Source(str(image))
    part, emptied = part_of(model), part_of(other)
    assert part.task == 'detection' and part.plug is not None
    assert describe(config, model, part)['input']['size_divisor'] == 32
    (wanted,) = Predictor(config, model)(source)
    del other.backbone, other.neck
    emptied.plug(part.module)
    (got,) = Predictor(config, other)(source)
    boxes = [one.sample.pred_instances.bboxes for one in (got, wanted)]
    assert len(boxes[1]) > 0
    torch.testing.assert_close(*boxes)
    # Written as those of mmdet are.
    outputs = Outputs(tmp_path, config, model.dataset_meta, source, 0.0)
    with outputs:
        outputs.write(got)
    found = json.loads((tmp_path / 'predictions.json').read_text())
    assert len(found['annotations']) == len(boxes[0])
    # The network sees it larger, with grey above and below.
    (frame,) = source
    image, data = Predictor(config, model).read(frame)
    scale, shift = way(data, image)
    assert scale == (2, 2) and shift == (0, 70)
    cam = Cam(model, data, least=0.0)
    assert cam.size == (320, 320) and cam.layer == 'backbone.stage4'
    heat = cam.map(max(cam.found), None)
    assert heat.shape == cam.size and heat.max() in (0, 1)


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
