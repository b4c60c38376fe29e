"""SIGTERM and Ctrl-C: finish the step, save, say how to go on."""

import os
import shlex
import signal
import sys
from types import FrameType

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

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
        # Workers get the signals of their group; they go on until the end.
        if os.getpid() == self._process:
            self.number = number
            if is_main_process():
                print(
                    f'{signal.Signals(number).name}: saving after this step; '
                    'again to stop at once',
                    file=sys.stderr,
                )


class StopHook(Hook):
    """Saves and leaves once a signal came, all processes at the same step.

    Args:
        signals (StopSignals): what came.

    Raises:
        SystemExit: with 128 and the number of the signal.
    """

    priority = 'LOWEST'  # behind the hook that saves

    def __init__(self, signals: StopSignals) -> None:
        self.signals = signals

    def after_train_iter(self, runner: Runner, *_, **__) -> None:
        number = self.signals.number
        if get_world_size() > 1:
            any_of_them = torch.tensor(number)
            all_reduce(any_of_them, 'max')
            number = int(any_of_them)
        if number:
            self._leave(runner, number, runner.iter + 1)

    def after_val_iter(self, runner: Runner, *_, **__) -> None:
        # Several processes may have numbers of batches that differ.
        if self.signals.number and get_world_size() == 1:
            self._leave(runner, self.signals.number, runner.iter)

    def _leave(self, runner: Runner, number: int, iteration: int) -> None:
        name = signal.Signals(number).name
        text = f'stopped by {name} after iteration {iteration}'
        savers = [
            hook
            for hook in runner.hooks
            if isinstance(hook, KeepingCheckpointHook)
        ]
        if savers:
            path = savers[0].save_now(runner, runner.epoch, iteration)
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
        str: for a shell; a launcher in front of it is not known here.
    """
    words = []
    skip = False
    for word in argv:
        if skip and not word.startswith('-'):
            skip = False
            continue
        skip = word == '--resume'
        if not skip and not word.startswith('--resume='):
            words.append(word)
    # In front: options such as --cfg-options take all words behind them.
    return shlex.join(['python', words[0], '--resume=auto', *words[1:]])
