"""Schedules are gone through before a run, and what they do is told."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmrfa.engine.schedules import LIMIT, check_schedules
from mmrfa.errors import InputError

ITERATIONS = dict(max_iters=100)
EPOCHS = dict(max_epochs=10)


def check(schedules: list | dict, plan: dict, lr: float = 0.1, **adam):
    """Notes about schedules; an epoch has 20 batches."""
    net = torch.nn.Linear(2, 2)
    groups = [dict(params=[net.weight], lr=lr / 10), dict(params=[net.bias])]
    kind = torch.optim.AdamW if adam else torch.optim.SGD
    wrapper = OptimWrapper(kind(groups, lr=lr, **adam))
    config = Config(
        dict(param_scheduler=schedules, train_cfg=plan, launcher='none')
    )
    loop = IterBasedTrainLoop if 'max_iters' in plan else EpochBasedTrainLoop
    notes = check_schedules(config, wrapper, loop, 20)
    assert [g['lr'] for g in wrapper.optimizer.param_groups] == [lr / 10, lr]
    return notes


def by_iteration(kind: str, **options) -> dict:
    return dict(type=kind, by_epoch=False, **options)


@pytest.mark.parametrize(
    ('schedule', 'plan', 'expected'),
    [
        (
            by_iteration('StepLR', step_size=0), ITERATIONS,
            'fails after iteration 1: ZeroDivisionError',
        ),
        (
            dict(type='StepLR', step_size=0), EPOCHS,
            'fails after epoch 1: ZeroDivisionError',
        ),
        (
            by_iteration('StepLR', step_size=9, gamma=1e200), ITERATIONS,
            'expected a finite lr of 0 or more, got inf after iteration 18',
        ),
        (
            by_iteration('ExponentialLR', gamma=-0.5), ITERATIONS,
            'expected a finite lr of 0 or more, got -0.0025 after iteration 1',
        ),
        (
            dict(type='ExponentialLR', gamma=-0.5,
                 convert_to_iter_based=True), EPOCHS,
            'expected a finite lr .* after iteration 1',
        ),
        (
            by_iteration('OneCycleLR', eta_max=0.1, total_steps=30),
            ITERATIONS, 'fails after iteration 31: ValueError: Tried to step',
        ),
        (
            by_iteration('StepMomentum', step_size=1, gamma=-1.0), ITERATIONS,
            'expected a finite momentum of 0 or more, got -0.9',
        ),
        (
            by_iteration('PolyLR', begin=5, end=3), ITERATIONS,
            'cannot be built: ValueError: end should be larger than begin',
        ),
        # The end of the run is the end that is not given.
        (
            by_iteration('PolyLR', begin=100), ITERATIONS,
            'cannot be built: ValueError: end should be larger than begin',
        ),
        (
            dict(type='LinearLR', end=5), ITERATIONS,
            'expected by_epoch=False in a run of 100 iterations',
        ),
        ('PolyLR', ITERATIONS, 'cannot be built'),
        (dict(by_epoch=False), ITERATIONS, "cannot be built: KeyError: type"),
    ],
)  # fmt: skip
def test_named(schedule, plan, expected) -> None:
    first = by_iteration('ConstantLR', factor=0.5, end=1)
    adam = dict(betas=(0.9, 0.99))
    with pytest.raises(InputError, match=expected) as caught:
        check([first, schedule], plan, **adam)
    line = str(caught.value)
    assert line.startswith('config None: param_scheduler[1]')
    assert '\n' not in line


def test_without_effect_or_end() -> None:
    linear = by_iteration('LinearLR', start_factor=0.1, end=300)
    plateau = dict(type='ReduceOnPlateauLR', monitor='mIoU')
    steps = dict(type='MultiStepLR', milestones=[12, 14], end=20)
    poly = by_iteration('PolyLR', begin=50, verbose=True)
    assert check([linear, plateau, poly], ITERATIONS) == [
        'param_scheduler[0]: goes on until 300, this run ends before (100 '
        'iterations)'
    ]
    assert check([linear, plateau, steps], EPOCHS) == [
        'param_scheduler[0]: goes on until 300, this run ends before (200 '
        'iterations)',
        'param_scheduler[2]: changes nothing in this run (10 epochs)',
    ]
    assert check(dict(type='CosineAnnealingLR', T_max=10), EPOCHS) == []
    assert check(None, EPOCHS) == check([], ITERATIONS) == []


def test_long_runs_take_a_moment() -> None:
    """The first part of one is gone through, the rest believed."""
    end = 10**8
    assert check(by_iteration('PolyLR'), dict(max_iters=end)) == []
    late = by_iteration('MultiStepLR', milestones=[end - 1])
    assert check(late, dict(max_iters=end)) == []
    assert check(dict(type='PolyLR'), dict(max_epochs=end)) == []
    assert LIMIT < end


def test_processes_share_the_batches(monkeypatch) -> None:
    monkeypatch.setenv('WORLD_SIZE', '4')
    net = torch.nn.Linear(2, 2)
    wrapper = OptimWrapper(torch.optim.SGD(net.parameters(), lr=1.0))
    schedule = by_iteration('LinearLR', end=51)
    config = Config(
        dict(param_scheduler=schedule, train_cfg=EPOCHS, launcher='pytorch')
    )
    (note,) = check_schedules(config, wrapper, EpochBasedTrainLoop, 20)
    assert '50 iterations' in note
