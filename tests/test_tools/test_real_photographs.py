"""The small configs on real photographs: they train, resume and test."""

import json
import math
import pickle
from pathlib import Path

import pytest
import torch

from .tool_calls import REPO

# Small pictures, few of them, no warm-up: seconds instead of hours.
LOADERS = [
    f'{split}_dataloader.{option}'
    for split in ('train', 'val', 'test')
    for option in (
        'num_workers=0',
        'persistent_workers=False',
        f'dataset.indices={4 if split == "train" else 2}',
    )
]
COMMON = [*LOADERS, 'param_scheduler=[]', 'default_hooks.logger.interval=1']
CAMVID = [
    *COMMON,
    'model.data_preprocessor.size=(96,96)',
    'train_dataloader.batch_size=4',
    'train_dataloader.dataset.pipeline.3.scale=(160,120)',
    'train_dataloader.dataset.pipeline.4.crop_size=(96,96)',
    'test_dataloader.dataset.pipeline.1.scale=(160,120)',
    'val_dataloader.dataset.pipeline.1.scale=(160,120)',
    'default_hooks.checkpoint.interval=6',
]
BCCD = [
    *COMMON,
    'train_dataloader.batch_size=2',
    'train_dataloader.dataset.pipeline.2.scale=(160,120)',
    'test_dataloader.dataset.pipeline.1.scale=(160,120)',
    'val_dataloader.dataset.pipeline.1.scale=(160,120)',
    'default_hooks.checkpoint.interval=3',
    'optim_wrapper.optimizer.lr=0.005',
]
CASES = {
    'camvid': (
        'deeplabv3plus/deeplabv3plus_r18-rfa-d16_1xb8-4k_camvid-256x256.py',
        CAMVID,
        'train_cfg.max_iters={}',
        'iter_{}.pth',
        (6, 7),
        1,  # iterations in one of these
    ),
    'bccd': (
        'faster_rcnn/faster-rcnn_r18-rfa_fpn_1xb4-36e_bccd.py',
        BCCD,
        'train_cfg.max_epochs={}',
        'epoch_{}.pth',
        (3, 4),
        2,
    ),
}


def losses(work_dir: Path) -> dict[int, float]:
    """Loss by iteration, from the log that the latest run wrote."""
    log = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return {row['iter']: row['loss'] for row in rows if 'loss' in row}


@pytest.fixture(params=CASES)
def folder(request, data_root) -> Path:
    """The data; found before `call` points the tools to the sample."""
    return data_root(request.param)


def test_trains_resumes_tests(folder, call, tmp_path, monkeypatch) -> None:
    name = folder.name
    if name == 'bccd':
        pytest.importorskip('mmcv._ext', reason='needs the operators of mmcv')
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(folder.parent))
    config, options, length, file, ends, steps = CASES[name]
    config = REPO / 'configs' / config
    work_dir = tmp_path / 'work'

    def train(end: int, *more: str) -> None:
        status = call(
            'train.py', config, '--work-dir', work_dir, *more,
            '--cfg-options', *options, length.format(end),
            'train_cfg.val_interval=100',
        )  # fmt: skip
        assert status == 0

    train(ends[0])
    loss = losses(work_dir)
    last = ends[0] * steps
    assert list(loss) == list(range(1, last + 1))
    assert all(map(math.isfinite, loss.values()))
    assert loss[last - 1] + loss[last] < loss[1] + loss[2]

    train(ends[1], '--resume')
    more = losses(work_dir)
    assert list(more) == list(range(last + 1, ends[1] * steps + 1))
    assert all(map(math.isfinite, more.values()))
    if name == 'camvid':  # saved at its interval only, and at the end
        assert (work_dir / 'last_checkpoint').read_text().endswith('7.pth')

    checkpoint = work_dir / file.format(ends[0])
    state = torch.load(checkpoint, weights_only=False)
    assert state['meta']['iter'] == last
    out = tmp_path / 'out.pkl'
    status = call(
        'test.py', config, checkpoint, '--work-dir', work_dir, '--out', out,
        '--show-dir', tmp_path / 'pictures', '--cfg-options', *options,
    )  # fmt: skip
    assert status == 0
    assert len(pickle.loads(out.read_bytes())) == 2
    pictures = [*tmp_path.glob('pictures/**/*.[jp][pn]g')]
    assert len(pictures) == 2
