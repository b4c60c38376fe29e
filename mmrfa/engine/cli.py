"""What the command line tools share: options, and errors as one line."""

import argparse
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable

from mmrfa.checkpoints.reading import TRUST
from mmrfa.engine.config import require_packages
from mmrfa.errors import InputError

DEBUG = 'MMRFA_DEBUG'
# What the outside world can do to a run; the rest of OSError is our fault.
_WORLD = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EFBIG,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
# Errors of other packages, and of ours, that the user can mend.
_KNOWN = re.compile(
    r"DataLoader worker|backend '|.*insufficient shared memory"
)


def run_tool(main: Callable[[], int | None]) -> int:
    """Run a tool and turn what a user can mend into one line.

    Prints ``error: ...`` on stderr, without the traceback; the environment
    variable ``MMRFA_DEBUG=1`` shows that as well. Any other exception is a
    defect and passes.

    Args:
        main (Callable): the tool.

    Returns:
        int: exit status; what the tool returns, or 0; 2 after a user's
        error, 130 after Ctrl-C, 141 where nobody reads the output any more.
    """
    for stream in sys.stdout, sys.stderr:
        # A terminal that knows ASCII only is no reason to stop.
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    try:
        status = main()
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:
        # What is still to be flushed at the end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print('stopped by the user', file=sys.stderr)
        return 130
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        if os.environ.get(DEBUG) == '1':
            traceback.print_exc()
        print(f'error: {message}', file=sys.stderr)
        return 2


def user_message(error: Exception) -> str | None:
    """One line for what a user can mend, None for anything else.

    Args:
        error (Exception): also one that a DataLoader worker sent, which
            carries the traceback of the worker in its text.

    Returns:
        str | None: the line.
    """
    marker = f'{InputError.__module__}.{InputError.__name__}: '
    from_worker = str(error).rpartition('\n' + marker)[2]
    if from_worker != str(error):
        return one_line(from_worker)
    if isinstance(error, InputError):
        return one_line(error)
    if isinstance(error, OSError) and error.errno in _WORLD:
        place = f': {error.filename}' if error.filename else ''
        return f'{error.strerror}{place}'
    if isinstance(error, RuntimeError) and _KNOWN.match(str(error)):
        return one_line(error)
    return None


def one_line(text: object) -> str:
    """Join the lines of a text."""
    return ' '.join(str(text).split())


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config file and ``--cfg-options``.

    Args:
        parser (ArgumentParser): of the tool.
    """
    parser.add_argument('config', help='config file')
    add_cfg_options(parser)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``.

    Args:
        parser (ArgumentParser): of the tool.
    """
    try:
        from mmengine.config import DictAction
    except ImportError:
        require_packages()  # knows which package to name
        raise
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='entries that replace those of the config, for instance '
        'model.backbone.depth=34 or key="[a,b]"',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing have in common.

    Args:
        parser (ArgumentParser): of the tool.
    """
    add_config_arguments(parser)
    parser.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints; work_dirs/CONFIG_NAME if '
        'neither this nor the config says',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes (default: none)',
    )
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help='set by older launchers',
    )
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``.

    Args:
        parser (ArgumentParser): of the tool.
    """
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='also load checkpoints that hold code, and run that code',
    )


def parse_args(
    parser: argparse.ArgumentParser, argv: list[str] | None
) -> argparse.Namespace:
    """Parse a command line.

    Args:
        parser (ArgumentParser): of the tool.
        argv (list[str] | None): arguments; None reads ``sys.argv``.

    Returns:
        Namespace: the arguments. What concerns the whole process, the local
        rank and the trust in checkpoints, is put into its environment.

    Raises:
        InputError: a piece of ``--cfg-options`` is no ``KEY=VALUE``, or its
            value is none that MMEngine reads.
    """
    # argparse passes on what DictAction raises
    try:
        args = parser.parse_args(argv)
    except ValueError as error:
        raise InputError(
            f'--cfg-options: expected KEY=VALUE pieces ({error})'
        ) from error
    except (AssertionError, RecursionError) as error:
        raise InputError(
            '--cfg-options: expected numbers, strings, lists and tuples of '
            'them as values; entries of a dict are set one by one '
            f'(KEY.ENTRY=VALUE), a list of dicts in a config ({error})'
        ) from error
    if getattr(args, 'local_rank', None) is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if getattr(args, 'trust_checkpoint', False):
        os.environ[TRUST] = '1'
    return args
