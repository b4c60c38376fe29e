"""Early stopping, averaged weights and curves do what configs.md says."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmrfa.checkpoints.reading import load_checkpoint_file

from .tiny_runs import segmentation, train

PAGE = Path(__file__).resolve().parents[2] / 'docs/configs.md'


@pytest.fixture(scope='module')
def told() -> dict:
    """What the page sets."""
    found = re.findall(r'^```python\n(.*?)^```', PAGE.read_text(), re.M | re.S)
    (code,) = (code for code in found if 'EMAHook' in code)
    names = {}
    exec(code, names)
    return names


@pytest.mark.parametrize('improving', [False, True])
def test_early_stopping(told, sample_root, tmp_path, monkeypatch, improving):
    stopping, _ = told['custom_hooks']
    scores = []

    def score(*_) -> dict[str, float]:
        scores.append(50.0 + improving * len(scores))
        return dict(mIoU=scores[-1])

    monkeypatch.setattr('mmseg.evaluation.IoUMetric.compute_metrics', score)
    config = segmentation(sample_root, tmp_path, end=8, save_best='mIoU')
    config.train_cfg.val_interval = 1
    config.custom_hooks = [stopping]
    train(config)
    # The first validation is the best; then so many in vain.
    end = 8 if improving else 1 + stopping['patience']
    assert len(scores) == 1 + end  # one more in the trial before the run
    best = 8 if improving else 1
    assert (tmp_path / f'best_mIoU_iter_{best}.pth').exists()


def test_averaged_weights(told, sample_root, tmp_path) -> None:
    _, averaging = told['custom_hooks']
    momentum = averaging['momentum']
    steps = 3
    states = {}
    for name, hooks in dict(plain=[], averaged=[averaging]).items():
        config = segmentation(sample_root, tmp_path / name, end=steps)
        config.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1)
        config.custom_hooks = hooks
        train(config)
        states[name] = [
            load_checkpoint_file(tmp_path / name / f'iter_{i}.pth')
            for i in range(1, steps + 1)
        ]
    last = states['averaged'][-1]
    key = 'decode_head.conv_seg.weight'
    first, *others = (c['state_dict'][key] for c in states['plain'])
    wanted = first
    for weight in others:
        wanted = wanted.lerp(weight, momentum)
    assert (wanted - first).abs().max() > 1e-6  # an average that moved
    close = dict(rtol=0, atol=1e-7)
    torch.testing.assert_close(last['state_dict'][key], wanted, **close)
    trained = last['ema_state_dict'][f'module.{key}']
    torch.testing.assert_close(trained, others[-1], **close)


def test_curves_and_time_left(
    told, sample_root, tmp_path, monkeypatch
) -> None:
    rows = []
    writer = SimpleNamespace(
        add_scalar=lambda name, value, step: rows.append((name, step)),
        add_text=lambda *args, **kwargs: None,
        close=lambda: None,
    )
    # TensorBoard is large, and all that MMEngine needs of it is this.
    module = SimpleNamespace(SummaryWriter=lambda folder: writer)
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', module)
    # Weights & Biases wants an account, and MMEngine this of it.
    sent = []
    nothing = SimpleNamespace(
        update=lambda *args, **kwargs: None,
        log_code=lambda *args, **kwargs: None,
    )
    wandb = SimpleNamespace(
        init=lambda **kwargs: None,
        log=lambda row, **kwargs: sent.extend(row),
        finish=lambda: None,
        join=lambda: None,
        config=nothing,
        run=nothing,
    )
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    config = segmentation(sample_root, tmp_path, end=3)
    config.visualizer.vis_backends = [
        *told['vis_backends'],
        dict(type='WandbVisBackend'),
    ]
    config.default_hooks.logger = dict(
        type='LoggerHook', interval=1, log_metric_by_epoch=False
    )
    config.log_level = 'INFO'
    train(config)
    assert {('loss', 1), ('loss', 2), ('loss', 3)} <= set(rows)
    assert ('mIoU', 3) in rows
    assert sent.count('loss') == 3 and 'mIoU' in sent
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    assert 'loss' in json.loads(log.read_text().splitlines()[0])
    (log,) = tmp_path.glob('*/*.log')
    assert re.search(r'\[1/3\].* eta: 0:00:\d\d ', log.read_text())
