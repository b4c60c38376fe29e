"""Numbers that are none stop a run, or are left out."""

import os
import signal
import socket
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmseg.models import FCNHead

from mmrfa.checkpoints.fit import check_fits
from mmrfa.engine.checkpoint_hook import KeepingCheckpointHook
from mmrfa.engine.finite_hook import FiniteHook
from mmrfa.errors import InputError

from .tiny_runs import TinyBackbone, in_child, segmentation, train


@pytest.fixture
def bad_steps(monkeypatch):
    """``bad_steps(3, 5)``: the maps of these training steps are NaN."""
    forward = TinyBackbone.forward

    def set_steps(*steps: int, value: float = float('nan')) -> None:
        count = iter(range(1, 1000))

        def bad(self, x):
            maps = forward(self, x)
            step = self.training and torch.is_grad_enabled()  # no trial
            if step and next(count) in steps:
                maps = maps[0], self.norm(maps[1] * value)
            return maps

        monkeypatch.setattr(TinyBackbone, 'forward', bad)

    return set_steps


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_stops(sample_root, tmp_path, bad_steps, value) -> None:
    bad_steps(4, value=value)
    with pytest.raises(InputError, match='iteration 4: .*finite loss'):
        train(segmentation(sample_root, tmp_path))
    assert [p.name for p in tmp_path.glob('*.pth')] == ['iter_2.pth']


def test_left_out(sample_root, tmp_path, bad_steps) -> None:
    """Weights and statistics are as if the step had not been."""
    bad_steps(3, 4)
    config = segmentation(sample_root, tmp_path)
    config.custom_hooks = [dict(type='FiniteHook', skip=True)]
    train(config)
    state = torch.load(tmp_path / 'iter_6.pth', weights_only=False)
    assert all(v.isfinite().all() for v in state['state_dict'].values())
    steps = {float(s['step']) for s in state['optimizer']['state'].values()}
    assert steps == {4.0}


def test_left_out_too_often(sample_root, tmp_path, bad_steps) -> None:
    bad_steps(*range(2, 99))
    config = segmentation(sample_root, tmp_path)
    config.custom_hooks = [dict(type='FiniteHook', skip=True, max_skipped=3)]
    with pytest.raises(InputError, match='iteration 4: .*none in 3 steps'):
        train(config)


class Scaled(OptimWrapper):
    """As AmpOptimWrapper, which wants a GPU."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.scaler = torch.amp.GradScaler('cpu', init_scale=1e38)

    def backward(self, loss, **_) -> None:
        self.scaler.scale(loss).backward()
        self._inner_count += 1

    def step(self, **_) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


@pytest.mark.parametrize('fused', [False, True])
def test_a_scaler_finds_its_scale(fused) -> None:
    """Gradients that it leaves out are no mistake; a loss is."""
    model = torch.nn.Linear(2, 1)
    wrapper = Scaled(torch.optim.AdamW(model.parameters(), fused=fused))
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, iter=0)
    hook = FiniteHook()
    hook.before_train(runner)
    before = model.weight.clone()

    def step(factor: float) -> bool:
        hook.before_train_iter(runner)
        loss = (model(torch.ones(1, 2)) * 1e3 * factor).sum()
        wrapper.update_params(loss)
        hook.after_train_iter(runner, 0, outputs=dict(loss=loss.detach()))
        return torch.equal(model.weight, before)

    assert [step(1.0) for _ in range(20)] == [True] * 9 + [False] * 11
    with pytest.raises(InputError, match='iteration 1: .*the loss nan'):
        step(float('nan'))


def test_accumulated_steps_are_left_out(
    sample_root, tmp_path, bad_steps
) -> None:
    """Where the optimizer is not asked, the statistics are put back, too."""
    bad_steps(1, 2)
    config = segmentation(sample_root, tmp_path, end=2)
    config.optim_wrapper.accumulative_counts = 9
    config.custom_hooks = [dict(type='FiniteHook', skip=True, max_skipped=3)]
    train(config)
    state = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    norm = state['state_dict']['backbone.norm.running_mean']
    assert norm.tolist() == [0.0] * 8


@pytest.mark.parametrize('accumulated', [1, 9])
def test_one_process_stops_all(sample_root, tmp_path, accumulated) -> None:
    """A loss without a gradient, of one process of two."""

    def run(rank: int) -> None:
        signal.alarm(100)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        losses, steps = FCNHead.loss_by_feat, iter(range(100))

        def bad(self, *args) -> dict:
            step = next(steps) if torch.is_grad_enabled() else 0
            number = float('nan') if rank == 1 and step == 2 else 0.0
            return losses(self, *args) | dict(loss_b=torch.tensor(number))

        FCNHead.loss_by_feat = bad
        config = segmentation(sample_root, tmp_path / 'work')
        config.optim_wrapper.accumulative_counts = accumulated
        try:
            train(config, launcher='pytorch')
        except InputError as error:
            (tmp_path / str(rank)).write_text(str(error))

    def both() -> None:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        os.environ.update(
            WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)
        )
        other = os.fork()
        if other == 0:
            os._exit(in_child(lambda: run(1)))
        run(0)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))

    assert in_child(both) == 0
    lines = {(tmp_path / str(rank)).read_text() for rank in range(2)}
    assert len(lines) == 1
    (line,) = lines
    assert 'iteration 3: expected a finite loss and gradient' in line
    assert 'the loss nan' in line and '\n' not in line


def test_bad_weights_replace_nothing(
    sample_root, tmp_path, monkeypatch
) -> None:
    """An infinity that a step left behind, between the looks at losses."""
    save = KeepingCheckpointHook._save_checkpoint

    def spoil(self, runner):
        if runner.iter == 3:
            runner.model.backbone.first.weight.data[0] = float('inf')
        save(self, runner)

    monkeypatch.setattr(KeepingCheckpointHook, '_save_checkpoint', spoil)
    with pytest.raises(InputError, match='iteration 4: nothing saved.*first'):
        train(segmentation(sample_root, tmp_path))
    assert [p.name for p in tmp_path.glob('*.pth')] == ['iter_2.pth']


def test_test_refuses_them() -> None:
    model = torch.nn.Linear(2, 2)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    check_fits(state, model, 'a.pth')
    state['bias'][1] = float('nan')
    with pytest.raises(InputError, match='a.pth: .*1 of 2 .*first: bias'):
        check_fits(state, model, 'a.pth')
