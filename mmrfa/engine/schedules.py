"""Schedules of learning rates and momenta, run through before the run."""

import math
import os
from typing import TYPE_CHECKING

from mmrfa.engine.arguments import check_types, registered
from mmrfa.engine.config import reason
from mmrfa.engine.naming import naming
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.optim import OptimWrapper, _ParamScheduler
    from torch.optim import Optimizer

# What launchers say about the number of processes.
_WORLD = dict(
    pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE'
)
# Iterations that are gone through; they take about a second.
LIMIT = 50_000


def check_schedules(
    config: 'Config', wrapper: 'OptimWrapper', loop: type, batches: int
) -> list[str]:
    """Build the schedules of a run and go through its steps with them.

    Args:
        config (Config): of the run.
        wrapper (OptimWrapper): of the run; not changed.
        loop (type): of the training.
        batches (int): that one process would have in an epoch.

    Returns:
        list[str]: for the log: what has no effect, or no end in the run.

    Raises:
        InputError: names the schedule, and what it does at which step.
    """
    from mmengine.optim import OptimWrapper, OptimWrapperDict
    from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

    schedules = config.get('param_scheduler')
    if schedules is None:
        schedules = []
    if isinstance(wrapper, OptimWrapperDict) or not isinstance(
        wrapper, OptimWrapper
    ):
        return []
    if isinstance(schedules, dict):
        schedules = [schedules]
    if not isinstance(schedules, list | tuple):
        raise InputError(
            f'config {config.filename}: param_scheduler: expected a dict or a '
            f'list of them, got {schedules!r}'
        )
    world = os.environ.get(_WORLD.get(config.get('launcher'), ''), '1')
    batches = max(1, math.ceil(batches / int(world)))
    by_epoch = issubclass(loop, EpochBasedTrainLoop)
    if by_epoch:
        epochs = config.train_cfg.get('max_epochs', 0)
        iterations = epochs * batches
    elif issubclass(loop, IterBasedTrainLoop):
        epochs, iterations = 1, config.train_cfg.get('max_iters', 0)
    else:
        epochs = iterations = 0
    trial = _Trial(config, wrapper, epochs, iterations, batches)
    for number, settings in enumerate(schedules):
        trial.build(number, settings)
        if iterations and not by_epoch:
            trial.check_counts_iterations(number)
    trial.run()
    return trial.notes()


class _Trial:
    """The schedules of a run on an optimizer that has no network.

    Args:
        config (Config): of the run.
        wrapper (OptimWrapper): of the run.
        epochs (int): of the run, 1 where it counts iterations, 0 where
            nothing is known.
        iterations (int): of the run.
        batches (int): of an epoch.
    """

    def __init__(
        self,
        config: 'Config',
        wrapper: 'OptimWrapper',
        epochs: int,
        iterations: int,
        batches: int,
    ) -> None:
        self.config, self.wrapper = config, wrapper
        self.epochs, self.iterations = epochs, iterations
        self.batches = batches
        self.optimizer = _stand_in(wrapper.optimizer)
        self.built: list[_ParamScheduler] = []
        self.acting: set[int] = set()
        self.cut = False

    def build(self, number: int, settings: dict) -> None:
        """Build a schedule as the run would."""
        from mmengine.registry import PARAM_SCHEDULERS

        with naming(self.config, f'param_scheduler[{number}]'):
            rest = dict(settings)
            kind = registered(PARAM_SCHEDULERS, rest)
            check_types(kind, rest)
            settings = dict(settings)
            if 'verbose' in settings:
                settings['verbose'] = False
            if self.epochs:
                by_epoch = settings.get('by_epoch', True)
                end = self.epochs if by_epoch else self.iterations
                settings.setdefault('end', end)
            # A list of least values has one for each group.
            whole = getattr(kind, 'need_val_args', False)
            before = self._values()
            self.built.append(
                PARAM_SCHEDULERS.build(
                    settings,
                    default_args=dict(
                        optimizer=self.wrapper if whole else self.optimizer,
                        epoch_length=self.batches,
                    ),
                )
            )
        if whole or self._values() != before:
            self.acting.add(number)

    def check_counts_iterations(self, number: int) -> None:
        """Where a run does, epochs have no end before it has."""
        schedule = self.built[number]
        if schedule.by_epoch and not getattr(schedule, 'need_val_args', False):
            raise InputError(
                f'config {self.config.filename}: param_scheduler[{number}]: '
                'expected by_epoch=False in a run of '
                f'{self.iterations} iterations, got True, which is the '
                'default: nothing would change before its end'
            )

    def run(self) -> None:
        """Go through the run, epoch by epoch."""
        self.optimizer.step()
        left = LIMIT // len(self.optimizer.param_groups)
        batches = self.iterations // max(1, self.epochs)
        for epoch in range(self.epochs):
            for batch in range(batches):
                running = self._running(by_epoch=False)
                if not running or not left:
                    self.cut |= bool(running)
                    break
                left -= 1
                self._step(running, f'iteration {epoch * batches + batch + 1}')
            running = self._running(by_epoch=True)
            if epoch == LIMIT or (self.cut and not running):
                self.cut = True
                break
            self._step(running, f'epoch {epoch + 1}')

    def _running(self, by_epoch: bool) -> list[int]:
        return [
            number
            for number, schedule in enumerate(self.built)
            if schedule.by_epoch == by_epoch
            and not getattr(schedule, 'need_val_args', False)
            and schedule._global_step + 1 < schedule.end
        ]

    def _step(self, numbers: list[int], place: str) -> None:
        for number in numbers:
            schedule = self.built[number]
            begin = f'config {self.config.filename}: param_scheduler[{number}]'
            before = self._values()
            try:
                schedule.step()
            except Exception as error:  # they compute with whatever there is
                raise InputError(
                    f'{begin}: fails after {place}: {reason(error)}'
                ) from error
            values = self._values()
            if values != before:
                self.acting.add(number)
            for value in values:
                if not (math.isfinite(value) and value >= 0):
                    raise InputError(
                        f'{begin}: expected a finite {schedule.param_name} '
                        f'of 0 or more, got {value} after {place}'
                    )

    def _values(self) -> list[float]:
        """Learning rates and momenta."""
        return [
            group[name]
            for group in self.optimizer.param_groups
            for name in ('lr', 'momentum')
            if name in group
        ]

    def notes(self) -> list[str]:
        """What to say about schedules that do nothing, or do not end."""
        from mmengine.optim.scheduler.param_scheduler import INF

        found = []
        for number, schedule in enumerate(self.built):
            total = self.epochs if schedule.by_epoch else self.iterations
            unit = 'epochs' if schedule.by_epoch else 'iterations'
            text = None
            if number not in self.acting and not self.cut:
                text = 'changes nothing in this run'
            elif total < schedule.end < INF:
                text = f'goes on until {schedule.end}, this run ends before'
            if text and total:
                found.append(
                    f'param_scheduler[{number}]: {text} ({total} {unit})'
                )
        return found


def _stand_in(optimizer: 'Optimizer') -> 'Optimizer':
    """An optimizer with the same settings, and one number in each group."""
    import torch

    class StandIn(torch.optim.Optimizer):
        def step(self) -> None:
            pass

    groups = {
        group.get('lr'): dict(group, params=[torch.zeros(1)])
        for group in optimizer.param_groups
    }
    return StandIn(list(groups.values()), optimizer.defaults)
