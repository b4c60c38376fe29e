"""SIGTERM and Ctrl-C: finish the step, save, say how to go on."""

import functools
import os
import shlex
import signal
import sys
from collections.abc import Callable
from types import FrameType

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmrfa.engine.checkpoint_hook import KeepingCheckpointHook

SIGNALS = signal.SIGINT, signal.SIGTERM


class StopSignals:
    """Notes the first signal to stop; a second one stops at once.

    Use as a context around the training.

    Attributes:
        number (int): of the signal, 0 before one came.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before = {}

    def __enter__(self) -> 'StopSignals':
        self._process = os.getpid()
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # A child that was forked has this handler, and is not meant.
        if os.getpid() == self._process:
            self.number = number
            if is_main_process():
                print(
                    f'{signal.Signals(number).name}: saving after this step; '
                    'again to stop at once',
                    file=sys.stderr,
                )


def spare_workers(loader: DataLoader) -> DataLoader:
    """Keep signals to a whole group from the workers of a loader.

    Ctrl-C and launchers signal a process with all that it started; the step
    that is to be finished needs the workers. One that is meant itself, as
    torch does at the end, still ends at once.

    Args:
        loader (DataLoader): nothing was drawn from it yet.

    Returns:
        DataLoader: the same.
    """
    if loader.num_workers > 0:
        loader.worker_init_fn = functools.partial(
            _leave_group, loader.worker_init_fn
        )
    return loader


def _leave_group(start: Callable[[int], None] | None, worker: int) -> None:
    os.setpgid(0, 0)
    if start is not None:
        start(worker)


class StopHook(Hook):
    """Saves and leaves once a signal came, all processes at the same step.

    After the last step of an epoch, the epoch is finished first.

    Args:
        signals (StopSignals): what came.

    Raises:
        SystemExit: with 128 and the number of the signal.
    """

    priority = 'LOWEST'  # behind the hook that saves

    def __init__(self, signals: StopSignals) -> None:
        self.signals = signals

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        done = runner.iter + 1
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch and done % len(runner.train_dataloader) == 0:
            return
        self._leave_if_any(runner, runner.epoch, done)

    def after_train_epoch(self, runner: Runner) -> None:
        self._leave_if_any(runner, runner.epoch + 1, runner.iter)

    def after_val_iter(self, runner: Runner, *_, **__) -> None:
        # Several processes may have numbers of batches that differ.
        number = self.signals.number
        if not number or get_world_size() > 1:
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):  # gives the weights back
                hook.after_val_epoch(runner)
        self._leave(runner, number, runner.epoch, runner.iter)

    def _leave_if_any(self, runner: Runner, epoch: int, done: int) -> None:
        number = self.signals.number
        if get_world_size() > 1:
            any_of_them = torch.tensor(number)
            all_reduce(any_of_them, 'max')
            number = int(any_of_them)
        if number:
            self._leave(runner, number, epoch, done)

    def _leave(
        self, runner: Runner, number: int, epoch: int, iteration: int
    ) -> None:
        name = signal.Signals(number).name
        text = f'stopped by {name} after iteration {iteration}'
        savers = [
            hook
            for hook in runner.hooks
            if isinstance(hook, KeepingCheckpointHook)
        ]
        if savers:
            path = savers[0].save_now(runner, epoch, iteration)
            text += f'; saved {path}; to go on: {resume_command(sys.argv)}'
        else:
            text += '; nothing saved, the run has no checkpoint hook'
        if is_main_process():
            print(text, file=sys.stderr)
        raise SystemExit(128 + number)


def resume_command(argv: list[str]) -> str:
    """Write the command that goes on with a run.

    Args:
        argv (list[str]): the command line of the run.

    Returns:
        str: for a shell. Of launchers it knows torchrun on one machine.
    """
    tool, *rest = argv
    words = []
    skip = False
    for word in rest:
        if skip and not word.startswith('-'):
            skip = False
            continue
        skip = word == '--resume'
        if not skip and not word.startswith('--resume='):
            words.append(word)
    start = ['python', tool]
    count = os.environ.get('LOCAL_WORLD_SIZE')
    if tool.startswith('mmrfa '):  # the command of that name
        start = tool.split()
    elif count is not None:
        start = ['torchrun', f'--nproc_per_node={count}', tool]
    # In front: options such as --cfg-options take all words behind them.
    return shlex.join([*start, '--resume=auto', *words])
