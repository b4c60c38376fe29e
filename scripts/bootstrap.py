"""Install requirement files and mmrfa into an environment of this clone.

    bootstrap.py base            segmentation, without a compiler
    bootstrap.py base ops test   detection, compiled operators, pytest
    bootstrap.py lint            ruff and codespell, without torch
    bootstrap.py base docs       the site, without a compiler

Needs nothing but Python. A repeat takes seconds and no network.
"""

# Old Pythons must get as far as being refused.
from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import util
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
VENV = REPO / '.venv'
LOG = REPO / 'work_dirs' / 'install.log'
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
WHEELS = CACHE / 'mmrfa' / 'wheels'  # mmcv with operators, for all clones
OLDEST, NEWEST = (3, 10), (3, 14)
HEARTBEAT = 10  # seconds
# Debug symbols would take half of the time, warnings fill the log.
FLAGS = '-O2 -DNDEBUG -g0 -w ' + os.environ.get('CFLAGS', '')
KEY = """import sys, sysconfig, torch
cuda = '-cuda' if torch.cuda.is_available() else ''
python = 'cp{}{}'.format(*sys.version_info)
print(f'torch-{torch.__version__}{cuda}', python, sysconfig.get_platform(),
      sep='_')"""
# Files of mmcv that define what others define, or are long by themselves.
APART = {'pybind', 'cpu/bezier_align', 'cpu/psamask', 'cpu/roi_align'}
APART |= {'cpu/roi_align_rotated', 'cpu/rotated_feature_align'}


class Stop(Exception):
    """Why nothing more can be done, in one line."""


def say(text: str) -> None:
    print(f'[install] {text}', flush=True)


def need(there: object, what: str, package: str) -> None:
    if not there:
        package = package.format(*sys.version_info)
        raise Stop(f'{what} is missing; Debian, Ubuntu: apt install {package}')


def other_python() -> str:
    got = '.'.join(map(str, sys.version_info[:3]))
    return f'{got} ({sys.executable}); another: make PYTHON=python3.11 ...'


def reason(output: str) -> str:
    """One line that says why a command failed."""
    if re.search('connection broken|Max retries|timed out', output):
        return 'no network: the package index could not be reached'
    if 'No space left on device' in output:
        return 'the disk is full'
    why = (re.findall(r'(?:ERROR|[Ee]rror): (.+)', output) or ['failed'])[-1]
    if why.startswith('No matching distribution'):
        why += f' and Python {other_python()}'
    return why.strip()


def run(title: str, *command, **env: str) -> str:
    """Run a command into the log; say now and then how far it is."""
    env = {**os.environ, 'PATH': f'{VENV}/bin:{os.environ["PATH"]}', **env}
    command, begin, seconds = list(map(str, command)), LOG.stat().st_size, 0

    def output() -> str:
        return LOG.read_bytes()[begin:].decode(errors='replace').strip()

    with open(LOG, 'a') as log:
        options = dict(stdout=log, stderr=log, env=env, cwd=REPO)
        with subprocess.Popen(command, **options) as process:
            while process.poll() is None:
                try:
                    process.wait(HEARTBEAT)
                except subprocess.TimeoutExpired:
                    seconds += HEARTBEAT
                    last = output().rpartition('\n')[2].strip()
                    say(f'{title}, {seconds} s: {last:.50}')
    if process.returncode:
        raise Stop(f'{title}: {reason(output())} (log: {LOG})')
    return output()


def python(title: str, *arguments, **env: str) -> str:
    return run(title, VENV / 'bin' / 'python', *arguments, **env)


def install(title: str, *arguments, **env: str) -> None:
    """Run pip; if it is killed, the environment is made anew next time."""
    unfinished = VENV / 'unfinished'
    unfinished.touch()
    try:
        python(title, '-m', 'pip', 'install', *arguments, **env)
    except Stop:  # pip has undone what it had begun
        unfinished.unlink()
        raise
    unfinished.unlink()


@contextlib.contextmanager
def locked(file: Path):
    """Let one install at a time do what follows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, 'w') as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('waiting for another install')
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def make_venv(torch: str) -> None:
    """Make the environment, unless it works and has the torch asked for."""
    program, chosen = VENV / 'bin' / 'python', VENV / 'torch-requirement.txt'
    other = torch and chosen.exists() and chosen.read_text() != torch
    if program.exists() and not (VENV / 'unfinished').exists() and not other:
        if subprocess.run([program, '-c', 'import pip']).returncode == 0:
            return
    venv = util.find_spec('venv') and util.find_spec('ensurepip')
    need(venv, "Python's module ensurepip", 'python{}.{}-venv')
    run(f'making {VENV}', sys.executable, '-m', 'venv', '--clear', VENV)


def install_torch(torch: str) -> None:
    """Install the torch asked for; without asking, keep the one chosen."""
    chosen = VENV / 'torch-requirement.txt'
    if not chosen.exists():
        needed = 3 if VENV.name == '.venv' else 8  # with CUDA
        free = shutil.disk_usage(REPO).free / 1e9
        if free < needed:
            raise Stop(f'{needed} GB are needed in {REPO}, got {free:.1f} GB')
    elif not torch:
        torch = chosen.read_text()
    torch = torch or '-r requirements/torch.txt'
    install('torch', *shlex.split(torch))
    chosen.write_text(torch)


def install_mmrfa() -> None:
    """Install this clone, so that edits need no second install."""
    mark = VENV / 'mmrfa.txt'
    files = 'setup.py', 'pyproject.toml', 'mmrfa/version.py'
    state = '\n'.join([str(REPO), *((REPO / f).read_text() for f in files)])
    if not mark.exists() or mark.read_text() != state:
        options = '--no-deps', '--no-build-isolation', '-e', REPO
        install('mmrfa', *options, MMRFA_KERNELS='0')
        mark.write_text(state)


def install_operators() -> None:
    """Put an mmcv with compiled operators in place of the plain one."""
    pin = (REPO / 'requirements' / 'mmcv.txt').read_text().split()[-1]
    key = f'{pin.replace("==", "-")}_{python("torch", "-c", KEY)}'
    folder, mark = WHEELS / key, VENV / 'mmcv-operators.txt'
    there = list(VENV.glob('lib/*/site-packages/mmcv/_ext*.so'))
    if there and mark.exists() and mark.read_text() == key:
        return
    with locked(WHEELS / f'{key}.lock'):
        if not list(folder.glob('*.whl')):
            build_mmcv(pin, folder)
    (wheel,) = folder.glob('*.whl')
    options = '--no-deps', '--no-cache-dir', '--force-reinstall'
    install('mmcv', *options, wheel)
    try:
        python('mmcv', '-c', 'import torch, mmcv._ext')
    except Stop as stop:
        raise Stop(f'{wheel} is of no use here, delete it: {stop}') from None
    mark.write_text(key)


def build_mmcv(pin: str, folder: Path) -> None:
    """Compile a wheel of mmcv; it comes into ``folder`` only whole."""
    compiler = os.environ.get('CXX', 'g++').split()[0]
    need(shutil.which(compiler), f'compiler {compiler}', 'build-essential')
    header = Path(sysconfig.get_path('include'), 'Python.h')
    need(header.is_file(), 'Python.h', 'python{}.{}-dev')
    say('compiling mmcv, once for all clones: 3 minutes on 2 cores')
    options = '--no-deps', '--no-cache-dir', '--no-build-isolation'
    with tempfile.TemporaryDirectory(dir=WHEELS) as scratch:
        place = '--no-binary', ':all:', '-d', scratch
        python('mmcv', '-m', 'pip', 'download', *options, *place, pin)
        (archive,) = Path(scratch).glob('*.tar.gz')
        shutil.unpack_archive(archive, scratch)
        source = Path(str(archive)[: -len('.tar.gz')])
        unite(source / 'mmcv' / 'ops' / 'csrc' / 'pytorch')
        jobs = os.environ.get('MAX_JOBS', str(len(os.sched_getaffinity(0))))
        build = '-m', 'pip', 'wheel', '-v', *options, source, '-w', scratch
        python('mmcv', *build, CFLAGS=FLAGS, MAX_JOBS=jobs)
        (wheel,) = Path(scratch).glob('*.whl')
        if wheel.stem.endswith('-none-any'):
            raise Stop(f'mmcv was built without operators (log: {LOG})')
        folder.mkdir(exist_ok=True)
        os.replace(wheel, folder / wheel.name)


def unite(folder: Path) -> None:
    """Compile small files as one: the time goes into torch's headers."""
    for part in folder, folder / 'cpu':
        lines = []
        for file in sorted(part.glob('*.cpp')):
            if str(file.relative_to(folder).with_suffix('')) not in APART:
                lines.append(f'#include "{file.stem}.inl"\n')
                file.rename(file.with_suffix('.inl'))
        (part / 'united.cpp').write_text(''.join(lines))


def main(names: list[str], torch: str) -> None:
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        low, high = ('.'.join(map(str, v)) for v in (OLDEST, NEWEST))
        raise Stop(f'Python {low} to {high} is needed, got {other_python()}')
    LOG.touch()
    make_venv(torch)
    if names:  # first: without network it fails at once
        files = [f'-rrequirements/{name}.txt' for name in names]
        install(' '.join(names), '--no-deps', *files)
    if names == ['lint']:
        return
    install_torch(torch)
    if 'base' in names:
        # No cache: it keeps mmcv with and without operators as one.
        options = '--no-deps', '--no-cache-dir'
        install('mmcv', *options, '-rrequirements/mmcv.txt')
    install_mmrfa()
    if 'ops' in names:
        install_operators()
    if names not in (['base'], ['base', 'docs']):
        build = 'setup.py', '-q', 'build_ext', '--inplace'
        output = python('kernels', *build, CFLAGS=FLAGS)
        for why in re.findall('.*(?:not built|failed).*', output):
            say(why)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', help='files of requirements/')
    parser.add_argument('--venv', default='.venv', help='folder')
    parser.add_argument('--torch', default='', help='arguments for pip')
    args = parser.parse_args()
    VENV = REPO / args.venv
    try:
        with locked(LOG.parent / '.install.lock'):
            main(args.names, args.torch)
    except (Stop, OSError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('stopped by the user')
