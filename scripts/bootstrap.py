"""Install what the Makefile's targets need into ``.venv`` of this clone.

    bootstrap.py base   segmentation: torch, OpenMMLab, mmrfa (no compiler)
    bootstrap.py ops    base, detection and mmcv's compiled operators
    bootstrap.py test   ops and pytest
    bootstrap.py lint   ruff and codespell only
    bootstrap.py classification   mmpretrain and pytest, in ``.venv-cls``
    bootstrap.py oldest   the oldest torch and pytest, in ``.venv-oldest``
    bootstrap.py check  say what is installed; exit 1 if base is not

Needs nothing but Python itself. What is already there is left alone, so that
a repeat takes seconds and no network.
"""

# Old Pythons must get as far as being refused.
from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
VENV = REPO / '.venv'
PYTHON = VENV / 'bin' / 'python'
LOG = REPO / 'work_dirs' / 'install.log'
REQUIREMENTS = REPO / 'requirements'
PYTHONS = (3, 10), (3, 14)
OLDEST_TORCH_PYTHON = (3, 11)
# GB that installing takes, with a little to spare.
DISK_TORCH, DISK_REST, DISK_OPS, DISK_BUILD = 1.5, 1.0, 0.5, 1.0
DISK_CUDA = 8.0  # 5 of them stay
HEARTBEAT = 20  # seconds


class Stop(Exception):
    """Why nothing more can be done, in one line."""


# --- what must be there before anything is installed ----------------------


def check_python(version: tuple[int, ...] = sys.version_info) -> None:
    """Stop unless this Python is one the pinned packages exist for."""
    low, high = ('.'.join(map(str, v)) for v in PYTHONS)
    if not PYTHONS[0] <= tuple(version[:2]) <= PYTHONS[1]:
        raise Stop(
            f'Python {low} to {high} is needed, got '
            f'{".".join(map(str, version[:3]))} ({sys.executable}); '
            'name another with: make PYTHON=python3.11 ...'
        )


def check_venv_module() -> None:
    """Stop where Debian's python3-venv is missing."""
    if not (util.find_spec('venv') and util.find_spec('ensurepip')):
        major, minor = sys.version_info[:2]
        raise Stop(
            'the Python module ensurepip is missing; on Debian and Ubuntu: '
            f'apt install python{major}.{minor}-venv'
        )


def check_disk(folder: Path, need_gb: float) -> None:
    """Stop if the file system of ``folder`` lacks room."""
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < need_gb:
        raise Stop(
            f'{need_gb:.1f} GB of free disk space are needed in {folder}, '
            f'got {free_gb:.1f} GB'
        )


def check_compiler() -> None:
    """Stop unless C++ for Python can be compiled."""
    compiler = os.environ.get('CXX', 'g++').split()[0]
    if shutil.which(compiler) is None:
        raise Stop(
            f'the C++ compiler {compiler} is needed for the compiled mmcv '
            'operators; on Debian and Ubuntu: apt install build-essential'
        )
    if not (Path(sysconfig.get_path('include')) / 'Python.h').is_file():
        major, minor = sys.version_info[:2]
        raise Stop(
            'Python.h is needed for the compiled mmcv operators; on Debian '
            f'and Ubuntu: apt install python{major}.{minor}-dev'
        )


# --- running pip ----------------------------------------------------------


def say(text: str) -> None:
    print(f'[install] {text}', flush=True)


def shown(line: str) -> str | None:
    """What the terminal gets of one line of pip's or ninja's output."""
    step = re.match(r'\[(\d+)/(\d+)\]', line.strip())
    if step:
        return f'compiling {step[1]} of {step[2]}'
    words = 'Collecting ', 'Downloading ', 'Installing ', 'Building wheel'
    if line.strip().startswith(words):
        return line.strip()
    return None


def reason(output: str) -> str:
    """One line that says why pip failed."""
    network = (
        'NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|'
        'Name or service not known|name resolution|Network is unreachable|'
        'Connection refused|ConnectionResetError'
    )
    if re.search(network, output, re.IGNORECASE):
        return 'no network: the package index could not be reached'
    if 'No space left on device' in output:
        return 'the disk is full'
    errors = re.findall(r'(?:ERROR|[Ee]rror): (.+)', output)
    return errors[-1].strip() if errors else 'no reason given'


def run(title: str, command: list, env: dict | None = None) -> None:
    """Run a command; show its progress, log all of it, stop if it fails."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    output, done, start = [], threading.Event(), time.monotonic()

    def heartbeat() -> None:
        while not done.wait(HEARTBEAT):
            say(f'{title}: {time.monotonic() - start:.0f} s')

    with open(LOG, 'a') as log:
        log.write(f'\n{time.ctime()} {shlex.join(map(str, command))}\n')
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env={**os.environ, **(env or {})},
            cwd=REPO,
        )
        threading.Thread(target=heartbeat, daemon=True).start()
        try:
            for line in process.stdout:
                output.append(line)
                log.write(line)
                log.flush()
                if shown(line):
                    say(shown(line))
        finally:
            done.set()
            process.wait()
    if process.returncode:
        raise Stop(f'{title}: {reason("".join(output))} (log: {LOG})')


def pip(title: str, *arguments, env: dict | None = None) -> None:
    """Run pip in ``.venv``; an install cut short is remembered."""
    unfinished = VENV / 'unfinished'
    unfinished.touch()
    options = '--disable-pip-version-check', '--no-input', '--retries', '3'
    try:
        run(title, [PYTHON, '-m', 'pip', *arguments, *options], env)
    except Stop:  # pip has undone what it had begun
        unfinished.unlink()
        raise
    unfinished.unlink()


# --- what is installed ----------------------------------------------------


def site_packages() -> Path:
    found = sorted((VENV / 'lib').glob('python3.*/site-packages'))
    return found[0] if found else VENV / 'lib'


def version_of(name: str) -> str | None:
    """Version of a distribution in ``.venv``, None if it is not there."""
    found = metadata.distributions(name=name, path=[str(site_packages())])
    return next((dist.version for dist in found), None)


def has_operators() -> bool:
    return any((site_packages() / 'mmcv').glob('_ext*.so'))


def pinned(file: str) -> tuple[str, str]:
    """Name and version of the one package that a requirement file pins."""
    lines = (REQUIREMENTS / file).read_text().splitlines()
    (pin,) = [line for line in lines if line and not line.startswith('#')]
    return tuple(pin.split('=='))


# --- the steps ------------------------------------------------------------


def make_venv() -> None:
    """Make ``.venv``, anew if it does not work or was left half installed."""
    works = PYTHON.exists() and version_of('pip')
    works = works and not (VENV / 'unfinished').exists()
    if works and subprocess.run([PYTHON, '-c', '']).returncode == 0:
        return
    check_venv_module()
    check_disk(REPO, DISK_TORCH + DISK_REST)
    say(f'making {VENV} for Python {sys.version.split()[0]}')
    run('.venv', [sys.executable, '-m', 'venv', '--clear', VENV])


def install_torch(requirement: str) -> None:
    """Install the torch asked for; without asking, keep what was chosen."""
    chosen = VENV / 'torch-requirement.txt'
    if not requirement:
        if chosen.exists():
            requirement = chosen.read_text()
        else:
            requirement = '=='.join(pinned('torch.txt'))
    if version_of('torch') is None:
        check_disk(REPO, DISK_TORCH)
        say(f'{requirement} (a CUDA build takes 3 GB more to fetch)')
    pip('torch', 'install', *shlex.split(requirement))
    chosen.write_text(requirement)


def install_file(name: str) -> None:
    """Install a complete requirement file, if anything in it is missing."""
    file = REQUIREMENTS / name
    pip(name, 'install', '--no-deps', '-r', file)


def install_mmrfa() -> None:
    """Install this clone so that edits need no second install."""
    dist = next(
        metadata.distributions(name='mmrfa', path=[str(site_packages())]),
        None,
    )
    sources = [REPO / name for name in ('setup.py', 'pyproject.toml')]
    sources.append(REPO / 'mmrfa' / 'version.py')
    if dist is not None:
        origin = json.loads(dist.read_text('direct_url.json') or '{}')
        made = Path(dist.locate_file('')) / f'mmrfa-{dist.version}.dist-info'
        newest = max(file.stat().st_mtime for file in sources)
        if (
            origin.get('url') == REPO.as_uri()
            and made.is_dir()
            and made.stat().st_mtime > newest
        ):
            return
    options = '--no-deps', '--no-build-isolation', '--force-reinstall'
    # The kernels need a compiler: `install_kernels` adds them.
    env = {'MMRFA_KERNELS': '0'}
    pip('mmrfa', 'install', *options, '-e', REPO, env=env)


def install_kernels() -> None:
    """Build mmrfa's CPU kernels in this clone, if they are not up to date."""
    folder = REPO / 'mmrfa' / 'ops'
    sources = [
        REPO / 'setup.py',
        folder / 'native_build.py',
        *(folder / 'csrc').iterdir(),
    ]
    newest = max(file.stat().st_mtime for file in sources)
    code = (
        'import torch; from mmrfa.ops.native_build import library_stem;'
        'print(library_stem(torch.__version__))'
    )
    found = subprocess.run(
        [PYTHON, '-c', code], capture_output=True, text=True, check=True
    )
    library = folder / f'{found.stdout.strip()}.so'
    if library.exists() and library.stat().st_mtime > newest:
        return
    check_compiler()
    say('compiling the CPU kernels of mmrfa: about a minute on 2 cores')
    env = {'PATH': f'{PYTHON.parent}:{os.environ["PATH"]}'}
    build = 'setup.py', '-q', 'build_ext', '--inplace'
    run('kernels', [PYTHON, *build], env)


# --- mmcv, with and without compiled operators ----------------------------


def wheel_key() -> str:
    """What a compiled mmcv wheel depends on, as a folder name."""
    code = (
        'import sysconfig, sys, torch;'
        'print(f"torch-{torch.__version__}"'
        ' + ("-cuda" if torch.cuda.is_available() else ""),'
        ' f"cp{sys.version_info[0]}{sys.version_info[1]}",'
        ' sysconfig.get_platform(), sep="_")'
    )
    run_ = subprocess.run([PYTHON, '-c', code], capture_output=True, text=True)
    if run_.returncode:
        why = run_.stderr.strip().splitlines() or ['no reason given']
        raise Stop(f'torch in {VENV} cannot be imported: {why[-1]}')
    return '-'.join(pinned('mmcv.txt')) + '_' + run_.stdout.strip()


def cache_root() -> Path:
    """Folder of this user's compiled wheels, shared by all clones."""
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache) / 'mmrfa' / 'wheels'


def cached_wheel(key: str) -> Path | None:
    return next((cache_root() / key).glob('*.whl'), None)


def install_wheel(wheel: Path, key: str) -> bool:
    """Install a compiled mmcv wheel; tell whether its operators load."""
    mark = VENV / 'mmcv-operators.txt'
    mark.unlink(missing_ok=True)
    options = '--no-deps', '--no-cache-dir', '--force-reinstall'
    pip('mmcv', 'install', *options, wheel)
    loads = [PYTHON, '-c', 'import torch, mmcv._ext']
    if subprocess.run(loads, stderr=subprocess.DEVNULL).returncode:
        return False
    mark.write_text(key)
    return True


def install_mmcv() -> None:
    """Install mmcv for segmentation: what is there, cached, or plain."""
    name, version = pinned('mmcv.txt')
    if version_of(name) == version:
        if not has_operators():
            return
        key, mark = wheel_key(), VENV / 'mmcv-operators.txt'
        if mark.exists() and mark.read_text() == key:
            return
        say('the mmcv operators in .venv were built for another torch')
    key = wheel_key()
    wheel = cached_wheel(key)
    if wheel and install_wheel(wheel, key):
        return
    # An isolated build does not see torch and leaves the operators out. No
    # cache: pip keeps both kinds under one name.
    options = '--no-deps', '--no-cache-dir', '--force-reinstall'
    env = {'PIP_NO_BUILD_ISOLATION': '', 'PIP_ONLY_BINARY': ''}
    pip('mmcv', 'install', *options, f'{name}=={version}', env=env)


def install_operators() -> None:
    """Install mmcv with compiled operators, from the cache or built now."""
    key, mark = wheel_key(), VENV / 'mmcv-operators.txt'
    if has_operators() and mark.exists() and mark.read_text() == key:
        return
    with one_build_at_a_time(key):
        wheel = cached_wheel(key)
        if wheel and install_wheel(wheel, key):
            return
        if not install_wheel(build_wheel(key), key):
            raise Stop('the mmcv operators were built, but do not load')


@contextlib.contextmanager
def one_build_at_a_time(key: str) -> Iterator[None]:
    """Let clones that want the same wheel wait for the first of them."""
    cache_root().mkdir(parents=True, exist_ok=True)
    with open(cache_root() / f'{key}.lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another clone is building the mmcv operators; waiting')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_wheel(key: str) -> Path:
    """Compile mmcv into the cache.

    The wheel is moved there only when complete.
    """
    check_compiler()
    check_disk(cache_root(), DISK_BUILD)
    cores = len(os.sched_getaffinity(0))
    say(
        'compiling the mmcv operators, once for all clones: '
        f'about 17 minutes on 2 cores (here: {cores})'
    )
    name, version = pinned('mmcv.txt')
    with tempfile.TemporaryDirectory(dir=cache_root()) as scratch:
        built = Path(scratch) / 'wheel'
        options = '--no-build-isolation', '--no-deps', '--no-cache-dir'
        pip(
            'mmcv operators', 'wheel', '-v', *options,
            '--no-binary', name, f'{name}=={version}', '-w', built,
            env={
                'MMCV_WITH_OPS': '1',
                'MAX_JOBS': os.environ.get('MAX_JOBS', str(cores)),
                'TMPDIR': scratch,
                # ninja is found there
                'PATH': f'{PYTHON.parent}:{os.environ["PATH"]}',
            },
        )  # fmt: skip
        wheel = next(built.glob('*.whl'))
        if wheel.stem.endswith('-none-any'):
            raise Stop(f'mmcv was built without operators (log: {LOG})')
        target = cache_root() / key / wheel.name
        target.parent.mkdir(exist_ok=True)
        os.replace(wheel, target)
    return target


# --- the commands ---------------------------------------------------------


def base(torch: str) -> None:
    make_venv()
    install_file('base.txt')  # first: without network it fails at once
    install_torch(torch)
    install_mmcv()
    install_mmrfa()


def ops(torch: str) -> None:
    base(torch)
    if version_of('onedl-mmdetection') is None:
        check_disk(REPO, DISK_OPS)
    install_file('ops.txt')
    install_operators()
    install_kernels()


def test(torch: str) -> None:
    ops(torch)
    install_file('test.txt')


def lint(torch: str) -> None:
    make_venv()
    install_file('lint.txt')


def classification(torch: str) -> None:
    """Make a second environment, whose torch torchvision was built for.

    ``torch`` is for the first one and means nothing here.
    """
    use_environment('.venv-cls')
    lines = (REQUIREMENTS / 'classification.txt').read_text().splitlines()
    if version_of('torchvision') is None:
        check_disk(REPO, DISK_CUDA)
    base(' '.join(line for line in lines if line.startswith('torch')))
    install_file('classification.txt')
    install_kernels()


def oldest(torch: str) -> None:
    """Make a third environment, of the oldest torch; ``torch`` is as above."""
    use_environment('.venv-oldest')
    if sys.version_info[:2] > OLDEST_TORCH_PYTHON:
        version = '.'.join(map(str, OLDEST_TORCH_PYTHON))
        raise Stop(
            f'the oldest torch is for Python {version} at most, got '
            f'{sys.version.split()[0]}; name another with: '
            f'make PYTHON=python{version} test-oldest'
        )
    make_venv()
    if version_of('torch') is None:
        check_disk(REPO, DISK_CUDA)
    pip('oldest.txt', 'install', '-r', REQUIREMENTS / 'oldest.txt')
    install_mmrfa()


def use_environment(name: str) -> None:
    """Install into another folder than ``.venv`` from here on."""
    global VENV, PYTHON
    # What pip keeps of their CUDA libraries would take half as much again.
    os.environ['PIP_NO_CACHE_DIR'] = '1'
    VENV = REPO / name
    PYTHON = VENV / 'bin' / 'python'


def check(torch: str) -> None:
    names = 'torch', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation'
    for name in (*names, 'mmrfa', 'onedl-mmdetection', 'pytest'):
        say(f'{name} {version_of(name) or "is not installed"}')
    say(f'compiled mmcv operators: {"yes" if has_operators() else "no"}')
    if None in [version_of(name) for name in (*names, 'mmrfa')]:
        raise Stop(f'{VENV} is not complete; install it with: make base')


COMMANDS = dict(
    base=base,
    ops=ops,
    test=test,
    lint=lint,
    classification=classification,
    oldest=oldest,
    check=check,
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('command', choices=COMMANDS)
    parser.add_argument(
        '--torch',
        default='',
        metavar='REQUIREMENT',
        help='arguments for pip in place of requirements/torch.txt,\n'
        "for instance 'torch==2.12.0 --index-url URL'",
    )
    args = parser.parse_args(argv)
    try:
        check_python()
        with one_install_at_a_time():
            COMMANDS[args.command](args.torch)
    except Stop as stop:
        print(f'error: {stop}', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped by the user', file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def one_install_at_a_time() -> Iterator[None]:
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with open(LOG.parent / '.install.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == '__main__':
    sys.exit(main())
