"""From a config to a Runner, with everything checked before it writes."""

import os
from typing import TYPE_CHECKING

from mmrfa.errors import InputError
from mmrfa.utils.checkpoint import (
    check_fits,
    check_resumable,
    load_checkpoint_file,
    load_safely_everywhere,
)
from mmrfa.utils.config import import_scope, prepare_distributed, reason

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner
    from torch import nn


def build_runner(config: 'Config', launcher: str, train: bool) -> 'Runner':
    """Check a config, then build its Runner.

    Nothing is written before all checks have passed. The first process of a
    machine makes them, the others wait for it where the processes meet.

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
    load_safely_everywhere()
    import_scope(config)
    local = os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', '0'))
    if launcher == 'none' or local == '0':
        check(config, train)

    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner
    from torch import distributed

    if launcher == 'pytorch' and notes:
        distributed.init_process_group('gloo')
    if 'runner_type' in config:
        runner = RUNNERS.build(config)
    else:
        runner = Runner.from_cfg(config)
    for note in notes:
        runner.logger.info(note)
    return runner


def check(config: 'Config', train: bool) -> None:
    """Find what would stop a run, without writing anything.

    Args:
        config (Config): of the run.
        train (bool): whether to train or to test.

    Raises:
        InputError: the first thing found.
    """
    from mmengine.model import BaseTTAModel
    from mmengine.runner import find_latest_checkpoint

    from mmrfa.datasets import check_data_roots

    loaders = ('train_dataloader', 'val_dataloader')
    check_data_roots(config, loaders if train else ('test_dataloader',))
    model = build_model(config)
    path = config.get('load_from')
    resume = train and config.get('resume')
    if resume and path is None:
        path = find_latest_checkpoint(config.work_dir)
    if isinstance(model, BaseTTAModel):
        model = model.module
    if path is not None and '://' not in path:
        content = load_checkpoint_file(path)
        if resume:
            check_resumable(content, path)
        if resume or not train:
            check_fits(content, model, path)
    if train:
        check_pretrained(model)


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


def check_pretrained(model: 'nn.Module') -> None:
    """Fetch the pretrained weights that the parts of a model start from.

    MMEngine keeps what it fetches, so the run itself finds them there.

    Args:
        model (nn.Module): built from a config.

    Raises:
        InputError: they cannot be fetched or read.
    """
    from mmrfa.models.pretrained import PRETRAINED, fetch_weights

    for module in model.modules():
        init = getattr(module, 'init_cfg', None)
        for part in init if isinstance(init, list | tuple) else [init]:
            if isinstance(part, dict) and part.get('type') in PRETRAINED:
                fetch_weights(part['checkpoint'], part.get('prefix'))
