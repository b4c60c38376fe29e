"""One batch through the network before a run writes anything."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmrfa.engine.naming import naming
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.evaluator import Evaluator
    from torch import nn

# Metrics that write what they computed, or that take all images to do so.
_LEFT_OUT = ('out_file_path', '_coco_api')


def try_training(
    config: 'Config', model: 'nn.Module', batch: object, wrapper: object
) -> None:
    """Compute the losses of a batch, where the run would.

    Args:
        config (Config): of the run.
        model (nn.Module): not changed, a copy computes.
        batch (object): of the training data, collated.
        wrapper (OptimWrapper): says in which precision.

    Raises:
        InputError: names the part of the model that fails, and why; or the
            preprocessed images are not finite.
    """
    import torch
    from mmengine.model import BaseModel
    from mmengine.optim import OptimWrapper

    if not isinstance(wrapper, OptimWrapper) or (
        type(model).train_step is not BaseModel.train_step
    ):
        return  # it has ways of its own
    with _copy_of(model, config, 'cannot be trained') as trial:
        trial.train()
        data = trial.data_preprocessor(batch, True)
        inputs = data.get('inputs') if isinstance(data, dict) else None
        if isinstance(inputs, torch.Tensor) and not inputs.isfinite().all():
            raise InputError(
                f'config {config.filename}: model.data_preprocessor: expected '
                'finite images, got infinity or NaN; see mean and std'
            )
        with wrapper.optim_context(trial):
            losses = trial._run_forward(data, mode='loss')
        trial.parse_losses(losses)


def try_testing(
    config: 'Config',
    model: 'nn.Module',
    batch: object,
    evaluator: 'Evaluator',
    stage: str,
) -> set[str] | None:
    """Predict a batch and give it to the metrics.

    Args:
        config (Config): of the run.
        model (nn.Module): not changed, a copy computes.
        batch (object): of the data, collated.
        evaluator (Evaluator): its metrics are filled.
        stage (str): ``val`` or ``test``.

    Returns:
        set[str] | None: names of what they measure, None where one of them
        computes only at the end of all data.

    Raises:
        InputError: names the part of the model or the metric, and why.
    """
    with _copy_of(model, config, f'fails in {stage}') as trial:
        trial.eval()
        outputs = getattr(trial, f'{stage}_step')(batch)
        places = {id(m): f'{stage}_evaluator' for m in evaluator.metrics}
        what = f'fails on {stage}_dataloader'
        with naming(config, f'{stage}_evaluator', what, places):
            evaluator.process(data_samples=outputs, data_batch=batch)
            found = set()
            for metric in evaluator.metrics:
                if any(hasattr(metric, name) for name in _LEFT_OUT):
                    found = None
                    continue
                computed = metric.compute_metrics(metric.results)
                if found is not None:
                    begin = f'{metric.prefix}/' if metric.prefix else ''
                    found |= {f'{begin}{name}' for name in computed}
            return found


@contextmanager
def _copy_of(
    model: 'nn.Module', config: 'Config', what: str
) -> Iterator['nn.Module']:
    import torch
    from mmengine.device import get_device
    from mmengine.logging import MessageHub

    hub = MessageHub.get_current_instance()
    if hub.get_info('iter') is None:  # which some parts ask for
        hub.update_info('iter', 0)
    try:
        trial = copy.deepcopy(model)
    except Exception:  # some cannot be copied; the run will tell
        yield model
        return
    places = {
        id(module): f'model.{name}'.rstrip('.')
        for name, module in trial.named_modules()
    }
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with naming(config, 'model', what, places), torch.no_grad():
            yield trial.to(get_device())
    finally:
        logging.disable(disabled)
