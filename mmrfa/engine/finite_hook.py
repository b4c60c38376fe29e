"""A loss or gradient that is no number stops a run before it spoils it."""

import math

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from mmrfa.errors import InputError


@HOOKS.register_module()
class FiniteHook(Hook):
    """Looks at the loss and at the norm of its gradient, at every step.

    The optimizer does not see what is not finite. Under automatic mixed
    precision infinite gradients belong to the search for a scale and are
    left to it; the loss is looked at. ``tools/train.py`` adds this hook
    where a config has none.

    Args:
        skip (bool): leave such steps out and count them, instead of
            stopping; the buffers of the model (running statistics) are put
            back as well. Defaults to False.
        max_skipped (int): how many in a row stop the run all the same.
            Defaults to 50.

    Raises:
        InputError: names iteration, loss and norm.
    """

    priority = 'VERY_HIGH'  # before anything is logged or saved

    def __init__(self, skip: bool = False, max_skipped: int = 50) -> None:
        self.skip, self.max_skipped = skip, max_skipped
        self.total = self.in_a_row = 0
        self.loss: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        if not hasattr(wrapper, 'optimizer'):  # it has several
            return
        update = wrapper.update_params

        def update_params(loss: Tensor, *args, **kwargs) -> None:
            self.loss = loss.detach()
            update(loss, *args, **kwargs)

        wrapper.update_params = update_params
        wrapper.optimizer.register_step_pre_hook(
            lambda optimizer, *_: self._before_step(runner, optimizer)
        )

    def before_train_iter(self, runner: Runner, *_, **__) -> None:
        self.looked = False
        if self.skip:
            self.buffers = [b.clone() for b in _model(runner).buffers()]

    def _before_step(self, runner: Runner, optimizer) -> None:
        gradients = [
            p.grad
            for group in optimizer.param_groups
            for p in group['params']
            if p.grad is not None
        ]
        # Set by scalers whose optimizer leaves steps out by itself.
        if not gradients or getattr(optimizer, 'found_inf', None) is not None:
            return
        self.looked = True
        norm = torch.stack([g.float().norm() for g in gradients]).norm()
        loss = self.loss.sum().to(norm)
        norm, loss = _over_all(torch.stack([norm, loss]))
        if math.isfinite(norm) and math.isfinite(loss):
            self.in_a_row = 0
            return
        self._stop_or_count(
            runner, f'the loss {loss} with the norm {norm} of the gradient'
        )
        optimizer.zero_grad(set_to_none=True)  # there is nothing to step by

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        if self.looked:
            return
        # The optimizer was not called: gradients are accumulated, or a scaler
        # left the step out.
        loss = (outputs or {}).get('loss', 0.0)
        (loss,) = _over_all(torch.as_tensor(loss).detach().reshape(1))
        if not math.isfinite(loss):
            self._stop_or_count(runner, f'the loss {loss}')

    def _stop_or_count(self, runner: Runner, seen: str) -> None:
        place = f'iteration {runner.iter + 1}'
        if not self.skip:
            raise InputError(
                f'{place}: expected a finite loss and gradient, got {seen}; '
                'earlier checkpoints are whole; try a lower learning rate or '
                'clip_grad, look at the data, or leave such steps out with '
                'custom_hooks=[dict(type="FiniteHook", skip=True)]'
            )
        for buffer, before in zip(_model(runner).buffers(), self.buffers):
            buffer.copy_(before)
        self.total += 1
        self.in_a_row += 1
        if is_main_process():
            runner.logger.warning(
                f'{place} left out: {seen}; {self.total} so far'
            )
        if self.in_a_row >= self.max_skipped:
            raise InputError(
                f'{place}: expected a finite loss and gradient, got none in '
                f'{self.in_a_row} steps'
            )


def _over_all(numbers: Tensor) -> list[float]:
    """Means over processes, so that one that stops does not stop alone."""
    numbers = numbers.float().clone()
    if get_world_size() > 1:
        all_reduce(numbers, 'mean')
    return numbers.tolist()


def _model(runner: Runner):
    model = runner.model
    return model.module if is_model_wrapper(model) else model
