"""Settings that are neither built nor belong to a stage of a run."""

import inspect
import logging
import math
import multiprocessing
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmrfa.engine.naming import naming
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

# Words in keys whose value may be infinite: no limit.
_LIMITS = ('range', 'max_norm', 'threshold')
# Ends of keys of whole numbers.
_WHOLE = ('interval', 'num_workers', 'batch_size', '_counts', '_per_epoch')
# Keys of what nothing is left of at 0.
_ABOVE_ZERO = ('std', 'max_norm', 'clip_value', 'num_batch_per_epoch')
# Where nothing is negative but -1, which says: never, all, the last.
_COUNTING = ('default_hooks', 'custom_hooks', 'param_scheduler', 'train_cfg')


def check_settings(config: 'Config') -> None:
    """Check the numbers of a config, and what it says about the process.

    Args:
        config (Config): not changed.

    Raises:
        InputError: names the key.
    """
    for path, value in _numbers(config._cfg_dict.to_dict()):
        key = str(path[-1]) if isinstance(path[-1], str) else str(path[-2:])
        expected = None
        if not math.isfinite(value) and not (
            value == math.inf and any(word in key for word in _LIMITS)
        ):
            expected = 'a finite number'
        elif path[0] in _COUNTING and value < 0 and value != -1:
            expected = 'a number of 0 or more, or -1'
        elif path[0] == 'param_scheduler' and value < 0 and key != 'last_step':
            expected = 'a number of 0 or more'
        elif value <= 0 and any(name in path for name in _ABOVE_ZERO):
            expected = 'a number above 0'
        elif path[0] == 'log_level' and value < 0:
            expected = 'a level'
        elif key.endswith(_WHOLE) and value != int(value):
            expected = 'a whole number'
        if expected:
            raise InputError(
                f'config {config.filename}: {".".join(map(str, path))}: '
                f'expected {expected}, got {value!r}'
            )
    level = config.get('log_level', 'INFO')
    if not isinstance(level, int) and not isinstance(
        logging.getLevelName(str(level)), int
    ):
        raise InputError(
            f'config {config.filename}: log_level: expected DEBUG, INFO, '
            f'WARNING or ERROR, got {level!r}'
        )
    randomness = config.get('randomness', {})
    seed = randomness.get('seed') if isinstance(randomness, dict) else 'none'
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**32):
        raise InputError(
            f'config {config.filename}: randomness.seed: expected None or a '
            f'whole number from 0 to 2**32 - 1, got {seed!r} in {randomness!r}'
        )
    _check_environment(config)


def _numbers(node: object, path: tuple = ()) -> Iterator[tuple]:
    """All numbers below a node, with the keys that lead to them."""
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _numbers(child, (*path, key))
    elif isinstance(node, list | tuple):
        for number, child in enumerate(node):
            yield from _numbers(child, (*path, number))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield path, node


def _check_environment(config: 'Config') -> None:
    from mmengine.runner import set_random_seed
    from mmengine.utils.dl_utils import set_multi_processing

    with naming(config, 'randomness', 'does not fit'):
        inspect.signature(set_random_seed).bind(**config.get('randomness', {}))
    with naming(config, 'env_cfg', 'does not fit'):
        settings = config.get('env_cfg', {})
        processes = settings.get('mp_cfg', {})
        inspect.signature(set_multi_processing).bind(
            distributed=False, **processes
        )
        start = processes.get('mp_start_method', 'fork')
        if start not in multiprocessing.get_all_start_methods():
            raise ValueError(f'mp_start_method: no way to start: {start!r}')
        threads = processes.get('opencv_num_threads', 0)
        if type(threads) is not int:
            raise ValueError(
                f'opencv_num_threads: expected a whole number, got {threads!r}'
            )
