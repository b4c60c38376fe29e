"""Saving such that a whole checkpoint is there at every moment."""

import math
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmrfa.checkpoints.fit import check_finite
from mmrfa.checkpoints.reading import BEGUN
from mmrfa.checkpoints.writing import remove_parts, write_whole
from mmrfa.errors import InputError

# Saved in an epoch that a signal ended.
IN_EPOCH = 'epoch_{}_iter_{}.pth'


class WholeFileBackend(LocalBackend):
    """File backend ``whole``: a file is replaced at once or not at all."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        """Write a file, whole or not at all."""
        write_whole(obj, filepath)


register_backend('whole', WholeFileBackend)


class KeepingCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, which never leaves less than it found.

    MMEngine removes the checkpoint that is too many, then writes the new one
    in its place; killed meanwhile, it leaves half a checkpoint or none. Here
    the new one is whole and on the disk before another one goes. Weights
    that are not finite stop the run and replace nothing. Arguments are those
    of MMEngine's.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if self.args:  # MMEngine would fail with it at the first saving
            raise TypeError(f'unknown arguments {", ".join(self.args)}')
        names = {self.filename_tmpl.format(step) for step in range(2)}
        if len(names) < 2:  # the next one would take the place of the last
            raise ValueError(
                'filename_tmpl: expected a {} for the step, got '
                f'{self.filename_tmpl!r}'
            )
        local = '://' not in str(self.out_dir or '')
        if local and self.backend_args is None is self.file_client_args:
            self.backend_args = dict(backend='whole')
        self.saved_iter = None

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if is_main_process() and '://' not in self.out_dir:
            remove_parts(self.out_dir)
        told = runner.cfg
        named = told.get('resume') is True and told.get('load_from')
        # Whoever names a checkpoint wants what follows from it from now on.
        if named or not runner._resume:
            runner.message_hub.update_info(BEGUN, time.time())
        source = self._here(runner._load_from) if runner._resume else None
        if source and _is_one_file(source, runner._load_from):
            self.last_ckpt, self.saved_iter = source, runner.iter
        if self.save_best is None:
            return
        # The work dir may have been moved since.
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = self._here(self.best_ckpt_path)
        else:
            for key, path in self.best_ckpt_path_dict.items():
                self.best_ckpt_path_dict[key] = self._here(path)

    def _here(self, path: str | None) -> str | None:
        return path and self._join(os.path.basename(path))

    def _join(self, name: str) -> str:
        return self.file_backend.join_path(self.out_dir, name)

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict
    ) -> None:
        _check_weights(runner, meta['iter'])
        surplus = []
        if self.max_keep_ckpts > 0:
            kept = [i for i in self.keep_ckpt_ids if i != step] + [step]
            surplus = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :])
            runner.message_hub.update_info(
                'keep_ckpt_ids', list(self.keep_ckpt_ids)
            )
        self._save_as(runner, self.filename_tmpl.format(step), meta)
        if is_main_process():
            for other in surplus:
                self._remove(self._join(self.filename_tmpl.format(other)))

    def _save_as(self, runner: Runner, name: str, meta: dict) -> None:
        self.last_ckpt = self._join(name)
        self.saved_iter = meta['iter']
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
        )
        if is_main_process():
            pointer = Path(runner.work_dir) / 'last_checkpoint'
            write_whole(self.last_ckpt.encode(), pointer)
            self._remove_begun_epochs(meta['iter'])

    def _remove_begun_epochs(self, iteration: int) -> None:
        """What signals left in epochs that others have passed since."""
        for name in list(self.file_backend.list_dir_or_file(self.out_dir)):
            found = re.fullmatch(IN_EPOCH.format(r'\d+', r'(\d+)'), name)
            if found and int(found[1]) < iteration:
                self._remove(self._join(name))

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> str:
        """Save between the checkpoints of the schedule.

        Args:
            runner (Runner): of the run.
            epoch (int): how many are complete.
            iteration (int): how many are complete.

        Returns:
            str: the file.
        """
        if self.saved_iter != iteration:
            meta = dict(epoch=epoch, iter=iteration)
            if self.by_epoch:
                _check_weights(runner, iteration)
                name = IN_EPOCH.format(epoch, iteration)
                self._save_as(runner, name, meta)
            else:
                self._save_checkpoint_with_step(runner, iteration, meta)
        return self.last_ckpt

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        _check_weights(runner, runner.iter)
        for key in self.key_indicators:
            if key != 'auto' and key not in metrics:
                raise InputError(
                    f'default_hooks.checkpoint.save_best: expected one of '
                    f'the metrics {", ".join(metrics)}, got {key}'
                )
        numbers = {
            key: value if value is None or math.isfinite(value) else None
            for key, value in metrics.items()
            if isinstance(value, int | float) or value is None
        }
        with self._removing_last():
            super()._save_best_checkpoint(runner, metrics | numbers)

    @contextmanager
    def _removing_last(self) -> Iterator[None]:
        backend = self.file_backend
        self.file_backend = later = _RemovesLater(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        if len(self.key_indicators) == 1:
            best = {self.best_ckpt_path}
        else:
            best = set(self.best_ckpt_path_dict.values())
        for path in set(later.paths) - best:
            self._remove(path)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # as DeepSpeed saves
            self.file_backend.rmtree(path)


class _RemovesLater:
    """A file backend that notes what it is to remove."""

    def __init__(self, backend: object) -> None:
        self.backend, self.paths = backend, []

    def __getattr__(self, name: str) -> object:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.paths.append(path)

    rmtree = remove


def _is_one_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _check_weights(runner: Runner, iteration: int) -> None:
    model = runner.model
    model = model.module if is_model_wrapper(model) else model
    check_finite(
        model.state_dict(),
        f'iteration {iteration}: nothing saved; the model',
    )
