"""From a config to a Runner, with everything checked before it writes."""

import copy
import os
from typing import TYPE_CHECKING

from mmrfa.checkpoints.fit import (
    check_fits,
    check_fits_somewhere,
    check_resumable,
)
from mmrfa.checkpoints.mmengine_loaders import (
    ReadAhead,
    load_safely_everywhere,
)
from mmrfa.engine.config import import_scope, prepare_distributed, reason
from mmrfa.engine.lock import lock_work_dir
from mmrfa.engine.naming import naming
from mmrfa.engine.parts import check_parts
from mmrfa.engine.resuming import (
    AUTO,
    STOPPING,
    check_average,
    check_optimizer_state,
    check_schedule_state,
    checkpoints_of,
    find_whole_checkpoint,
    inexact_parts,
)
from mmrfa.engine.settings import check_settings
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner
    from torch import nn

# Where launchers tell a process its ranks.
RANKS = {
    'pytorch': ('RANK', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


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

    from mmrfa.datasets import check_images
    from mmrfa.engine.runner import checked_runner

    check_images(config)
    kind = config.get('runner_type', 'Runner')
    if RUNNERS.get(kind) is None:
        raise InputError(
            f'config {config.filename}: expected a registered runner_type, '
            f'got {kind!r}'
        )
    checked = None
    rank, local_rank = _ranks(launcher)
    if local_rank == '0':
        checked = Checked(config, train, reader, RUNNERS.get(kind))
    if train and rank == '0':
        lock_work_dir(config.work_dir)
    if launcher == 'pytorch' and notes:
        distributed.init_process_group('gloo')
    runner = checked_runner(RUNNERS.get(kind), checked, train).from_cfg(config)
    for note in notes + (checked.notes if checked else []):
        runner.logger.info(note)
    return runner


def _ranks(launcher: str) -> list[str]:
    """Rank of this process among all, and among those of its machine."""
    # Not LOCAL_RANK alone: the tools set it to 0 where it is missing.
    names = RANKS.get(launcher, ('', ''))
    return [os.environ.get(name, '0') for name in names]


class Checked:
    """The model of a run, once nothing stands in the run's way.

    Args:
        config (Config): of the run.
        train (bool): whether to train or to test.
        reader (ReadAhead): what MMEngine reads local checkpoints with.
        kind (type): of the Runner.

    Attributes:
        model (nn.Module): built, on the CPU.
        random_state (Tensor): torch's, behind the building.
        resume_from (str | None): the checkpoint to go on from.
        seed (int): of the run that goes on, or of this one, drawn if the
            config has none.
        datasets (list[tuple[dict, Dataset]]): settings and data set of each
            loader.
        notes (list[str]): for the log.

    Raises:
        InputError: the first thing found; nothing was written.
    """

    def __init__(
        self, config: 'Config', train: bool, reader: ReadAhead, kind: type
    ) -> None:
        import torch
        from mmengine.model import BaseTTAModel
        from mmengine.runner import set_random_seed

        from mmrfa.datasets import check_data_roots

        check_settings(config)
        loaders = ('train_dataloader', 'val_dataloader')
        for loader in loaders if train else ('test_dataloader',):
            with naming(config, loader, 'cannot be read'):
                check_data_roots(config, [loader])
        # As the Runner does, so that a seed stands for the same weights.
        seed = (config.get('randomness') or {}).get('seed')
        self.seed = set_random_seed(seed)
        self.model = model = build_model(config)
        self.random_state = torch.get_rng_state()
        self.datasets, optim_wrapper, self.notes = check_parts(
            config, model, kind, train
        )
        if isinstance(model, BaseTTAModel):
            model = model.module
        resume = train and config.get('resume')
        path = config.get('load_from')
        if resume and (path is None or resume == AUTO):
            found, skipped = find_whole_checkpoint(config, reader)
            self.notes += [f'--resume: not from {line}' for line in skipped]
            resume, path = found is not None, found or path
        self.resume_from = path if resume else None
        if not isinstance(path, str | None):
            raise InputError(f'load_from: expected a file, got {path!r}')
        if path is not None:
            content = _read_ahead(path, reader)
            if resume:
                check_resumable(content, path)
                self.seed = content['meta'].get('seed', self.seed)
                self._note_inexact(config, content)
            if resume or not train:
                check_fits(content, model, path)
            if resume:
                check_average(content, model, path)
                check_optimizer_state(content, optim_wrapper, path)
                check_schedule_state(content, config, optim_wrapper, path)
            if train and not resume:
                check_fits_somewhere(content, model, path)
        if train and not self.resume_from:
            check_pretrained(model, reader)
            self._note_earlier(config)

    def _note_earlier(self, config: 'Config') -> None:
        names = sorted(path.name for path in checkpoints_of(config))
        if names:
            self.notes.append(
                f'{config.work_dir} holds {len(names)} checkpoints of earlier '
                f'runs ({names[0]} ...); this one starts at 0 and takes the '
                'place of those of equal names. --resume goes on from the '
                'last one, another --work-dir keeps them apart.'
            )

    def _note_inexact(self, config: 'Config', content: dict) -> None:
        keys = ('train_dataloader', 'custom_hooks')
        lost = inexact_parts([config.get(key) for key in keys])
        if STOPPING in content:
            lost.discard('EarlyStoppingHook')
        if lost:
            self.notes.append(
                f'--resume: {", ".join(sorted(lost))}: state that no '
                'checkpoint holds begins anew; the weights will not be those '
                'of the uninterrupted run to the last bit'
            )


def _read_ahead(path: str, reader: ReadAhead) -> dict:
    from mmengine.runner import CheckpointLoader

    if '://' not in path:
        return reader.keep(path)
    try:
        return CheckpointLoader.load_checkpoint(path, 'cpu')
    except (OSError, KeyError, ImportError) as error:
        raise InputError(
            f'checkpoint {path}: cannot be fetched: {reason(error)}'
        ) from error


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
    # mmdet writes more into the settings of a head.
    model = copy.deepcopy(config.model)
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', config.data_preprocessor)
    scope = config.get('default_scope')
    with naming(config, 'model', f'cannot be built in scope {scope}'):
        return MODELS.build(model)


def check_pretrained(model: 'nn.Module', reader: ReadAhead) -> None:
    """Fetch the pretrained weights that the parts of a model start from.

    What is fetched over the network MMEngine keeps as files, so that the run
    itself finds it there.

    Args:
        model (nn.Module): built from a config.
        reader (ReadAhead): gives local files out again.

    Raises:
        InputError: they cannot be fetched or read, or an ordinary ResNet
            is not of the depth of the one that is to start from it.
    """
    from mmrfa.models.weights.plain import fill_from_plain
    from mmrfa.models.weights.pretrained import fetch_weights, pretrained_of

    for module in model.modules():
        if hasattr(module, 'fetch_pretrained'):
            state = module.fetch_pretrained()
            for part in pretrained_of(module)[-1:]:
                if part['type'] == 'PretrainedResNet':
                    fill_from_plain(
                        copy.deepcopy(module), state, part['checkpoint']
                    )
            continue
        for part in pretrained_of(module):
            fetch_weights(part['checkpoint'], part.get('prefix'), reader.keep)
