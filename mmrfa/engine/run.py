"""From a config to a Runner, with everything checked before it writes."""

import os
from typing import TYPE_CHECKING

from mmrfa.checkpoints.fit import check_fits, check_resumable
from mmrfa.checkpoints.reading import ReadAhead, load_safely_everywhere
from mmrfa.engine.config import import_scope, prepare_distributed, reason
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner
    from torch import nn


def build_runner(config: 'Config', launcher: str, train: bool) -> 'Runner':
    """Check a config, then build its Runner.

    Nothing is written before all checks have passed. The first process of a
    machine makes them, the others wait for it where the processes meet. The
    model that it builds and the weights that it reads for that are those of
    the run.

    Args:
        config (Config): with ``work_dir``; to test, ``load_from`` names the
            checkpoint.
        launcher (str): what started the processes.
        train (bool): whether to train or to test.

    Returns:
        Runner: ready to run.

    Raises:
        InputError: something in the config, the data or the checkpoint.
    """
    notes = prepare_distributed(config, launcher)
    reader = load_safely_everywhere()
    import_scope(config)

    from mmengine.registry import RUNNERS
    from torch import distributed

    kind = config.get('runner_type', 'Runner')
    if RUNNERS.get(kind) is None:
        raise InputError(
            f'config {config.filename}: expected a registered runner_type, '
            f'got {kind!r}'
        )
    local = os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', '0'))
    checked = None
    if launcher == 'none' or local == '0':
        checked = Checked(config, train, reader)
    if launcher == 'pytorch' and notes:
        distributed.init_process_group('gloo')
    runner = _runner_of(RUNNERS.get(kind), checked).from_cfg(config)
    for note in notes:
        runner.logger.info(note)
    return runner


class Checked:
    """The model of a run, once nothing stands in the run's way.

    Args:
        config (Config): of the run.
        train (bool): whether to train or to test.
        reader (ReadAhead): what MMEngine reads local checkpoints with.

    Attributes:
        model (nn.Module): built, on the CPU.
        random_state (Tensor): torch's, behind the building.

    Raises:
        InputError: the first thing found; nothing was written.
    """

    def __init__(
        self, config: 'Config', train: bool, reader: ReadAhead
    ) -> None:
        import torch
        from mmengine.model import BaseTTAModel
        from mmengine.runner import set_random_seed

        from mmrfa.datasets import check_data_roots

        loaders = ('train_dataloader', 'val_dataloader')
        check_data_roots(config, loaders if train else ('test_dataloader',))
        # As the Runner does, so that a seed stands for the same weights.
        set_random_seed((config.get('randomness') or {}).get('seed'))
        self.model = model = build_model(config)
        self.random_state = torch.get_rng_state()
        if isinstance(model, BaseTTAModel):
            model = model.module
        resume = train and config.get('resume')
        path = checkpoint_of(config)
        if path is not None and '://' not in path:
            content = reader.keep(path)
            if resume:
                check_resumable(content, path)
            if resume or not train:
                check_fits(content, model, path)
        if train and not (resume and path is not None):
            check_pretrained(model, reader)


def checkpoint_of(config: 'Config') -> str | None:
    """Find the checkpoint that a run loads.

    Args:
        config (Config): of the run.

    Returns:
        str | None: ``load_from``, else the latest one in the work dir if the
        run is to go on and there is one.
    """
    from mmengine.runner import find_latest_checkpoint

    path = config.get('load_from')
    if path is None and config.get('resume'):
        path = find_latest_checkpoint(config.work_dir)
    return path


def _runner_of(kind: type, checked: Checked | None) -> type:
    """Make a Runner that takes the model that was checked.

    Only the first of all processes has the random numbers of the check.
    """
    import torch

    class CheckedRunner(kind):
        def build_model(self, model: dict) -> 'nn.Module':
            if checked is None or self.rank != 0:
                return super().build_model(model)
            torch.set_rng_state(checked.random_state)
            return checked.model

        def _init_model_weights(self) -> None:
            # A checkpoint to resume from has them all.
            if not (self._resume and checkpoint_of(self.cfg)):
                super()._init_model_weights()

    return CheckedRunner


def build_model(config: 'Config') -> 'nn.Module':
    """Build the model of a config.

    Args:
        config (Config): not changed.

    Returns:
        nn.Module: on the CPU, with random weights.

    Raises:
        InputError: an unknown type, or arguments that do not fit.
    """
    from mmengine.registry import MODELS

    if not isinstance(config.get('model'), dict):
        raise InputError(
            f'config {config.filename}: expected a model, a dict, in it, got '
            f'{config.get("model")!r}'
        )
    model = config.model.copy()
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', config.data_preprocessor)
    try:
        return MODELS.build(model)
    except InputError:
        raise
    except (
        AssertionError,
        AttributeError,
        ImportError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f'config {config.filename}: the model cannot be built: '
            f'{reason(error)}'
        ) from error


def check_pretrained(model: 'nn.Module', reader: ReadAhead) -> None:
    """Fetch the pretrained weights that the parts of a model start from.

    What is fetched over the network MMEngine keeps as files, so that the run
    itself finds it there.

    Args:
        model (nn.Module): built from a config.
        reader (ReadAhead): gives local files out again.

    Raises:
        InputError: they cannot be fetched or read.
    """
    from mmrfa.models.weights.pretrained import fetch_weights, pretrained_of

    for module in model.modules():
        if hasattr(module, 'fetch_pretrained'):
            module.fetch_pretrained()
            continue
        for part in pretrained_of(module):
            fetch_weights(part['checkpoint'], part.get('prefix'), reader.keep)
