"""A Runner that loses nothing and goes on exactly where it stopped."""

import os
from typing import TYPE_CHECKING

import torch
from mmengine.dist import broadcast_object_list
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop

from mmrfa.checkpoints.reading import SETTINGS
from mmrfa.engine.checkpoint_hook import KeepingCheckpointHook
from mmrfa.engine.epochs import MidEpochLoop
from mmrfa.engine.finite_hook import FiniteHook
from mmrfa.engine.parts import given
from mmrfa.engine.resuming import changes
from mmrfa.engine.seeding import StepSeedHook, seed_samples
from mmrfa.engine.size_hook import BatchSizeHook
from mmrfa.engine.stopping import StopHook, StopSignals, spare_workers
from mmrfa.engine.validation import ValidateFirstHook

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader


_STOCK = 'CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook


def checked_runner(kind: type, checked: object | None, train: bool) -> type:
    """Make a class of Runners of what was checked.

    The config stays as it is; what a run needs beside it is added here.

    Args:
        kind (type): MMEngine's Runner, or one derived from it.
        checked (object | None): a ``Checked`` of ``mmrfa.engine.run``, None
            in all but the first process of a machine.
        train (bool): whether to train or to test.

    Returns:
        type: a subclass of ``kind``.
    """

    class CheckedRunner(kind):
        _resume_from = None

        def set_randomness(self, seed=None, **options) -> None:
            # Here the processes have met for the first time. Only the first
            # of all has the random numbers of the check.
            known = [None, None]
            if checked is not None:
                known = [checked.resume_from, checked.seed]
            broadcast_object_list(known)
            self._resume_from, known_seed = known
            if known_seed is not None:
                seed = known_seed
            super().set_randomness(seed, **options)
            if options.get('deterministic'):
                # MMEngine has torch refuse what has no such kernel, on GPUs
                # histc, which MMSegmentation's metric needs. Here torch warns
                # of it, and the rest repeats.
                os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
                torch.use_deterministic_algorithms(True, warn_only=True)

        def build_model(self, model: dict) -> 'nn.Module':
            if checked is None or self.rank != 0:
                return super().build_model(model)
            torch.set_rng_state(checked.random_state)
            return checked.model

        def _init_model_weights(self) -> None:
            # A checkpoint to resume from has them all.
            if not self._resume_from:
                super()._init_model_weights()

        def load_or_resume(self) -> None:
            if self._resume and self._resume_from is None:
                self._resume = False
                self.logger.info(
                    f'--resume: no checkpoint in {self.work_dir}, the '
                    'run starts at 0.'
                )
            elif self._resume:
                self._load_from = self._resume_from
            super().load_or_resume()

        def load_checkpoint(self, *args, **kwargs) -> dict:
            checkpoint = super().load_checkpoint(*args, **kwargs)
            # To start from, or to test, it may be anything.
            text = checkpoint['meta'].get(SETTINGS) if self._resume else None
            if isinstance(text, str):
                for line in changes(text, self.cfg.pretty_text):
                    self.logger.warning(f'--resume: {line}')
            return checkpoint

        def call_hook(self, fn_name: str, **options) -> None:
            content = options.get('checkpoint', {})
            if fn_name == 'after_load_checkpoint' and (
                'state_dict' not in content
            ):  # weights alone; hooks look for them in their place
                options['checkpoint'] = dict(state_dict=content)
            super().call_hook(fn_name, **options)

        def register_hook(self, hook: Hook | dict, priority=None) -> None:
            if isinstance(hook, dict) and hook.get('type') in _STOCK:
                options = dict(hook)
                for key in 'type', '_scope_':
                    options.pop(key, None)
                priority = options.pop('priority', priority)
                hook = KeepingCheckpointHook(**options)
            super().register_hook(hook, priority)

        def register_hooks(self, *args, **kwargs) -> None:
            super().register_hooks(*args, **kwargs)
            if not train:
                return
            if not any(isinstance(hook, FiniteHook) for hook in self.hooks):
                self.register_hook(FiniteHook())
            self.register_hook(StepSeedHook())
            self.register_hook(BatchSizeHook())
            self._signals = StopSignals()
            self.register_hook(StopHook(self._signals))
            self.register_hook(ValidateFirstHook())

        @staticmethod
        def build_dataloader(dataloader, seed=None, **options) -> 'DataLoader':
            if checked is not None:
                dataloader = _with_dataset(dataloader, checked.datasets)
            loader = kind.build_dataloader(dataloader, seed, **options)
            if train:
                spare_workers(loader)
            return loader if seed is None else seed_samples(loader, seed)

        def build_train_loop(self, loop):
            loop = super().build_train_loop(loop)
            if type(loop) is EpochBasedTrainLoop:
                loop.__class__ = MidEpochLoop
            return loop

        def train(self) -> 'nn.Module':
            with self._signals:
                return super().train()

    CheckedRunner.__name__ = kind.__name__
    return CheckedRunner


def _with_dataset(loader: dict, built: list) -> dict:
    """Settings of a loader, with the data set that was built for them."""
    for number, (settings, dataset) in enumerate(built):
        if isinstance(loader, dict) and loader.get('dataset') == settings:
            del built[number]
            return given(loader, dataset)
    return loader
