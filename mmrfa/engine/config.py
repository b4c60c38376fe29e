"""Reading configs and making them fit the machine."""

import difflib
import importlib
import inspect
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from mmrfa.checkpoints.writing import check_folder
from mmrfa.engine.safe_config import read_configs_safely
from mmrfa.errors import InputError
from mmrfa.openmmlab import import_package

if TYPE_CHECKING:
    from mmengine.config import Config

SUFFIXES = ('.py', '.json', '.yaml', '.yml')
# Scopes that a config may name, and what registers their models.
SCOPES = {
    'mmseg': 'mmseg.models',
    'mmdet': 'mmdet.models',
    'mmpretrain': 'mmpretrain.models',
    'mmyolo': 'mmrfa.models.mmyolo',
}
# What MMEngine and tools/test.py take from a config, beside the arguments of
# Runners.
BESIDE_RUNNER = (
    'activation_checkpointing',
    'compile',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
)
# What launchers set.
VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
)


def require_packages() -> None:
    """Import ``mmrfa.models``, which checks the OpenMMLab packages.

    Raises:
        InputError: one is missing, does not fit, or fails to import.
    """
    import_package('mmrfa.models')
    try:
        # MMEngine's report of the environment imports it where it is there.
        importlib.import_module('torchvision')
    except ImportError:
        pass
    except RuntimeError as error:
        raise InputError(
            'torchvision is installed but does not fit this torch '
            f'({error}); uninstall it, or install the one for this torch'
        ) from error


def load_config(path: str, options: dict | None = None) -> 'Config':
    """Read a config file.

    Args:
        path (str): the file.
        options (dict | None): entries that replace those of the file, with
            dotted keys, from ``--cfg-options``. Defaults to None.

    Returns:
        Config: the config; the packages and modules that it imports are
        there.

    Raises:
        InputError: no such file, not a config, an import that fails, or
            options that do not fit.
    """
    if not Path(path).is_file():
        raise InputError(f'config {path}: expected a file, found none')
    if Path(path).suffix not in SUFFIXES:
        raise InputError(
            f'config {path}: expected a file that ends in '
            f'{", ".join(SUFFIXES)}'
        )
    require_packages()
    read_configs_safely()
    from mmengine.config import Config

    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is a program, it can raise anything
        raise InputError(
            f'config {path}: cannot be read: {reason(error)}'
        ) from error
    before = {*config}
    try:
        config.merge_from_dict(options or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f'--cfg-options: does not fit config {path}: {reason(error)}'
        ) from error
    _check_names(options or {}, before, config)
    return config


def _check_names(options: dict, before: set[str], config: 'Config') -> None:
    """Refuse options of a name that stands nowhere."""
    from mmengine.runner import FlexibleRunner, Runner

    if config.get('runner_type') not in (None, 'Runner', 'FlexibleRunner'):
        return  # it may look for anything
    known = before | {
        *inspect.signature(Runner).parameters,
        *inspect.signature(FlexibleRunner).parameters,
        *BESIDE_RUNNER,
    }
    for name in dict.fromkeys(key.partition('.')[0] for key in options):
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise InputError(
                f'--cfg-options: expected settings of config '
                f'{config.filename} or of MMEngine, got {name}, which is '
                'neither' + ''.join(f'; did you mean {c}?' for c in close)
            )


def reason(error: BaseException) -> str:
    """Say what an error of another package is about.

    Args:
        error (BaseException): of several imports inside each other, the
            innermost is described.

    Returns:
        str: its kind and message, in one line.
    """
    while isinstance(error, ImportError):
        cause = error.__cause__ or error.__context__
        if not isinstance(cause, ImportError | InputError):
            break
        error = cause
    if isinstance(error, InputError):
        return str(error)
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = error.args[0]  # str() puts it in quotes
    elif not text and error.__traceback__:  # a bare assert
        text = traceback.extract_tb(error.__traceback__)[-1].line
    return f'{type(error).__name__}: {" ".join(str(text).split())}'


def import_scope(config: 'Config') -> None:
    """Import the package whose models the config uses.

    Args:
        config (Config): ``default_scope`` names the package.

    Raises:
        InputError: it is no name, the package is missing, or it needs
            mmcv's compiled operators.
    """
    from mmengine.registry import init_default_scope

    scope = config.get('default_scope')
    if scope is None:
        scope = 'mmengine'
    if not isinstance(scope, str) or not scope:
        raise InputError(
            f'config {config.filename}: default_scope: expected one of '
            f'{", ".join(SCOPES)}, got {scope!r}'
        )
    if scope in SCOPES:
        import_package(SCOPES[scope])
    init_default_scope(scope)


def set_work_dir(config: 'Config', work_dir: str | None) -> None:
    """Set the folder that the run writes to.

    Args:
        config (Config): changed in place.
        work_dir (str | None): None leaves the folder of the config, and if
            that has none, takes ``work_dirs`` and the name of the file.

    Raises:
        InputError: there is something else than a folder.
    """
    folder = work_dir or config.get('work_dir')
    if not folder:
        folder = f'work_dirs/{Path(config.filename).stem}'
    if not isinstance(folder, str):
        raise InputError(
            f'config {config.filename}: work_dir: expected the name of a '
            f'folder, got {folder!r}'
        )
    check_folder(folder, 'work dir')
    config.work_dir = folder


def prepare_distributed(config: 'Config', launcher: str) -> list[str]:
    """Make a run of several processes possible without a GPU.

    There the processes talk by gloo, MMEngine's own start-up does not work
    (it selects a GPU), and torch's SyncBN refuses to run: GlooSyncBN computes
    the same. With a GPU, or with one process, MMEngine does all that is
    needed.

    Args:
        config (Config): changed in place.
        launcher (str): what started the processes, ``none`` for one process.

    Returns:
        list[str]: what was changed, for the log.

    Raises:
        InputError: a launcher that needs GPUs, or did not start this.
    """
    from mmengine.device import get_device

    config.launcher = launcher
    lacking = [v for v in VARIABLES.get(launcher, ()) if v not in os.environ]
    if lacking:
        raise InputError(
            f'--launcher {launcher}: expected {", ".join(lacking)} in the '
            'environment, found none; start it with torchrun, srun or mpirun '
            '(tools/dist_train.sh, tools/slurm_train.sh)'
        )
    if launcher == 'none' or get_device() != 'cpu':
        return []
    if launcher != 'pytorch':
        raise InputError(
            f'--launcher {launcher}: expected a GPU, found none; on a CPU use '
            '--launcher pytorch'
        )
    notes = ['No GPU: the processes communicate by gloo.']
    config.merge_from_dict({'env_cfg.dist_cfg': dict(backend='gloo')})
    wrapper = config.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=config.get('find_unused_parameters', False),
    )
    config.model_wrapper_cfg = dict(wrapper, device_ids=None)
    norms = ('SyncBN', 'MMSyncBN')
    if config.pop('sync_bn', None):  # also turns BN into SyncBN
        norms += ('BN', 'BN2d')
    changed = _rename(config.model, norms, 'GlooSyncBN')
    if changed:
        notes.append(
            f'No GPU: SyncBN became GlooSyncBN in {changed} places of the '
            'config; it computes the same.'
        )
    return notes


def _rename(node: object, old: tuple[str, ...], new: str) -> int:
    """Replace types below a node of a config; how many."""
    if isinstance(node, list | tuple):
        return sum(_rename(item, old, new) for item in node)
    if not isinstance(node, dict):
        return 0
    count = sum(_rename(item, old, new) for item in node.values())
    if node.get('type') in old:
        node['type'] = new
        count += 1
    return count
