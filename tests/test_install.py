"""The installer: early and clear stops, no half work, an honest package."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[1]
COMPLETE = 'base.txt', 'mmcv.txt', 'ops.txt', 'test.txt', 'lint.txt'


@pytest.fixture
def bootstrap(tmp_path, monkeypatch):
    """The installer, for a clone in ``tmp_path`` with its own cache."""
    spec = importlib.util.spec_from_file_location(
        'bootstrap', REPO / 'scripts/bootstrap.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'REPO', tmp_path)
    monkeypatch.setattr(module, 'VENV', tmp_path / '.venv')
    monkeypatch.setattr(module, 'PYTHON', tmp_path / '.venv/bin/python')
    monkeypatch.setattr(module, 'LOG', tmp_path / 'work_dirs/install.log')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('PIP_NO_CACHE_DIR', '0')  # put back if it is changed
    return module


def script(path: Path, text: str) -> Path:
    """A shell script that stands for a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


def distribution(bootstrap, name: str, version: str, *files: str) -> None:
    """Make ``.venv`` look as if a package was installed."""
    site = bootstrap.VENV / 'lib/python3.11/site-packages'
    info = site / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(f'Name: {name}\nVersion: {version}\n')
    for file in files:
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).touch()


# --- early stops ----------------------------------------------------------


@pytest.mark.parametrize('version', [(2, 7, 18), (3, 9, 18), (3, 15, 0)])
def test_wrong_python_is_named(bootstrap, version):
    with pytest.raises(bootstrap.Stop) as stop:
        bootstrap.check_python(version)
    assert '3.10 to 3.14' in str(stop.value)
    assert '.'.join(map(str, version)) in str(stop.value)


@pytest.mark.parametrize('version', [(3, 10, 0), (3, 11, 7), (3, 14, 9)])
def test_right_python_passes(bootstrap, version):
    bootstrap.check_python(version)


def test_the_oldest_torch_names_its_python(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap.sys, 'version_info', (3, 12, 1, 'final', 0))
    with pytest.raises(bootstrap.Stop, match='make PYTHON=python3.11 test-o'):
        bootstrap.oldest('')
    assert not bootstrap.VENV.exists()


def test_full_disk_stops_before_anything(bootstrap, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=int(1.2e9))
    monkeypatch.setattr(bootstrap.shutil, 'disk_usage', lambda _: usage)
    bootstrap.check_disk(tmp_path, 1.1)
    with pytest.raises(bootstrap.Stop) as stop:
        bootstrap.make_venv()
    assert re.search(r'2\.5 GB .* got 1\.2 GB', str(stop.value))
    assert not bootstrap.VENV.exists()


@pytest.mark.parametrize('command', ['classification', 'oldest'])
def test_full_disk_stops_before_cuda_is_fetched(
    bootstrap, tmp_path, monkeypatch, command
):
    usage = shutil.disk_usage(tmp_path)._replace(free=int(7.9e9))
    monkeypatch.setattr(bootstrap.shutil, 'disk_usage', lambda _: usage)
    monkeypatch.setattr(bootstrap, 'REQUIREMENTS', REPO / 'requirements')
    monkeypatch.setattr(bootstrap, 'make_venv', lambda: None)
    monkeypatch.setattr(bootstrap.sys, 'version_info', (3, 11, 7, 'final', 0))
    with pytest.raises(bootstrap.Stop, match=r'8\.0 GB .* got 7\.9 GB'):
        getattr(bootstrap, command)('')


def test_missing_venv_module_names_the_package(bootstrap, monkeypatch):
    monkeypatch.setattr(
        bootstrap.util, 'find_spec', lambda name: name != 'ensurepip' or None
    )
    with pytest.raises(bootstrap.Stop, match=r'apt install python3\.\d+-venv'):
        bootstrap.make_venv()


def test_missing_compiler_is_named(bootstrap, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(bootstrap.Stop, match='no-such-compiler'):
        bootstrap.check_compiler()


def test_no_network_is_one_line(tmp_path):
    """For real: a clone whose package index cannot be reached."""
    for folder in 'scripts', 'requirements':
        shutil.copytree(REPO / folder, tmp_path / folder)
    env = {k: v for k, v in os.environ.items() if not k.startswith('PIP_')}
    env |= {
        'PIP_CONFIG_FILE': os.devnull,
        'PIP_INDEX_URL': 'http://127.0.0.1:9/simple',
        'PIP_RETRIES': '0',
    }
    run = subprocess.run(
        [sys.executable, tmp_path / 'scripts/bootstrap.py', 'lint'],
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith('error: lint.txt: no network')
    log = Path(re.search(r'\(log: (.*)\)', line)[1])
    assert '127.0.0.1' in log.read_text()
    assert not (tmp_path / '.venv/unfinished').exists()


# --- running commands -----------------------------------------------------


@pytest.mark.parametrize(
    ('output', 'said'),
    [
        ('Temporary failure in name resolution', 'no network'),
        ('OSError: [Errno 28] No space left on device', 'the disk is full'),
        ('ERROR: No matching distribution for x', 'No matching dist'),
        ('', 'no reason given'),
    ],
)
def test_failure_is_one_line_and_logged(bootstrap, tmp_path, output, said):
    program = script(
        tmp_path / 'fails', f'echo first; echo "{output}"; exit 3'
    )
    with pytest.raises(bootstrap.Stop) as stop:
        bootstrap.run('step', [program])
    assert said in str(stop.value) and '\n' not in str(stop.value)
    assert str(bootstrap.LOG) in str(stop.value)
    assert f'first\n{output}\n' in bootstrap.LOG.read_text()


def test_progress_is_shown_while_a_command_works(
    bootstrap, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bootstrap, 'HEARTBEAT', 0.1)
    program = script(
        tmp_path / 'slow',
        'echo "  [7/186] c++ -MMD a.cpp"; echo "Collecting torch"; sleep 0.5',
    )
    bootstrap.run('step', [program])
    said = capsys.readouterr().out
    assert 'compiling 7 of 186' in said
    assert 'Collecting torch' in said
    assert re.search(r'step: \d+ s', said)


def test_an_install_cut_short_starts_anew(bootstrap, monkeypatch):
    script(bootstrap.PYTHON, 'exit 0')
    distribution(bootstrap, 'pip', '23.2.1')
    commands = []
    monkeypatch.setattr(
        bootstrap, 'run', lambda _, command, *__: commands.append(command)
    )
    bootstrap.make_venv()
    assert commands == []  # nothing to do

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, 'run', killed)
    with pytest.raises(KeyboardInterrupt):
        bootstrap.pip('base.txt', 'install')
    monkeypatch.setattr(
        bootstrap, 'run', lambda _, command, *__: commands.append(command)
    )
    bootstrap.make_venv()
    assert [c[1:4] for c in commands] == [['-m', 'venv', '--clear']]


def test_the_torch_once_chosen_is_kept(bootstrap, monkeypatch):
    asked = []
    monkeypatch.setattr(bootstrap, 'pip', lambda *a: asked.append(a[2:]))
    bootstrap.VENV.mkdir()
    bootstrap.install_torch('')
    bootstrap.install_torch('torch==2.12.0 --index-url URL')
    bootstrap.install_torch('')
    assert asked[0] == ('=='.join(bootstrap.pinned('torch.txt')),)
    assert asked[1] == asked[2] == ('torch==2.12.0', '--index-url', 'URL')


# --- mmcv -----------------------------------------------------------------


@pytest.fixture
def mmcv(bootstrap, monkeypatch):
    """Name and version of mmcv, with a key that needs no torch."""
    monkeypatch.setattr(bootstrap, 'wheel_key', lambda: 'the-key')
    return bootstrap.pinned('mmcv.txt')


def test_key_names_package_torch_and_python(bootstrap, tmp_path, monkeypatch):
    fake = tmp_path / 'torch.py'
    fake.write_text(
        "__version__ = '9.8+cpu'\n"
        'class cuda:\n    is_available = staticmethod(lambda: False)\n'
    )
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.setattr(bootstrap, 'PYTHON', sys.executable)
    key = bootstrap.wheel_key()
    python = f'cp{sys.version_info[0]}{sys.version_info[1]}'
    for part in *bootstrap.pinned('mmcv.txt'), 'torch-9.8+cpu', python:
        assert part in key
    fake.write_text(fake.read_text().replace('9.8', '9.9'))
    assert bootstrap.wheel_key() != key
    fake.write_text('raise ImportError("libtorch is gone")')
    with pytest.raises(bootstrap.Stop, match='libtorch is gone'):
        bootstrap.wheel_key()


def test_plain_mmcv_never_replaces_operators(bootstrap, mmcv, monkeypatch):
    installs = []
    monkeypatch.setattr(
        bootstrap, 'pip', lambda *a, **_: installs.append(a[-1])
    )
    distribution(bootstrap, *mmcv, 'mmcv/_ext.so')
    mark = bootstrap.VENV / 'mmcv-operators.txt'
    mark.write_text('the-key')
    bootstrap.install_mmcv()
    bootstrap.install_operators()
    assert installs == []
    mark.write_text('key of another torch')
    bootstrap.install_mmcv()
    assert installs == ['=='.join(mmcv)]


def test_cached_wheel_is_used_if_it_loads(bootstrap, mmcv, monkeypatch):
    installs = []
    monkeypatch.setattr(
        bootstrap, 'pip', lambda *a, **_: installs.append(a[-1])
    )
    wheel = bootstrap.cache_root() / 'the-key/mmcv-1-linux.whl'
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    script(bootstrap.PYTHON, 'exit 0')
    bootstrap.install_mmcv()
    bootstrap.install_operators()
    assert installs == [wheel, wheel]
    assert (bootstrap.VENV / 'mmcv-operators.txt').read_text() == 'the-key'

    # A wheel that does not load is built again.
    script(bootstrap.PYTHON, 'exit 1')
    built = []
    monkeypatch.setattr(
        bootstrap, 'build_wheel', lambda key: built.append(key) or wheel
    )
    with pytest.raises(bootstrap.Stop, match='do not load'):
        bootstrap.install_operators()
    assert built == ['the-key']
    assert not (bootstrap.VENV / 'mmcv-operators.txt').exists()


BUILD = """
for last; do :; done
eval "out=\\$$(($# - 4))"
while [ $# -gt 0 ]; do [ "$1" = -w ] && out=$2; shift; done
mkdir -p $out; echo content > $out/mmcv-1-{tag}.whl; exit {status}
"""


def test_a_failed_build_leaves_no_wheel(bootstrap, mmcv):
    body = BUILD.replace('{status}', '1').replace('{tag}', 'cp-linux')
    script(bootstrap.PYTHON, body)
    bootstrap.cache_root().mkdir(parents=True)
    with pytest.raises(bootstrap.Stop, match='mmcv operators'):
        bootstrap.build_wheel('the-key')
    assert bootstrap.cached_wheel('the-key') is None
    assert list(bootstrap.cache_root().iterdir()) == []


def test_a_build_without_operators_is_refused(bootstrap, mmcv):
    body = BUILD.replace('{status}', '0').replace('{tag}', 'py3-none-any')
    script(bootstrap.PYTHON, body)
    bootstrap.cache_root().mkdir(parents=True)
    with pytest.raises(bootstrap.Stop, match='without operators'):
        bootstrap.build_wheel('the-key')
    assert bootstrap.cached_wheel('the-key') is None


def test_a_build_ends_in_the_cache(bootstrap, mmcv, capsys):
    body = BUILD.replace('{status}', '0').replace('{tag}', 'cp-linux')
    script(bootstrap.PYTHON, body)
    bootstrap.cache_root().mkdir(parents=True)
    wheel = bootstrap.build_wheel('the-key')
    assert wheel == bootstrap.cached_wheel('the-key')
    assert wheel.read_text() == 'content\n'
    assert 'about 17 minutes on 2 cores' in capsys.readouterr().out


# --- requirements ---------------------------------------------------------


def requirements(*files: str) -> dict[str, Requirement]:
    """What the requirement files install on this Python."""
    found = {}
    for file in files:
        for line in (REPO / 'requirements' / file).read_text().splitlines():
            line = line.split('#')[0].strip()
            if line and not line.startswith('-r'):
                requirement = Requirement(line)
                if not requirement.marker or requirement.marker.evaluate():
                    found[canonicalize_name(requirement.name)] = requirement
    return found


def test_every_requirement_is_pinned():
    listed = requirements('torch.txt', *COMPLETE)
    assert len(listed) > 40
    for name, requirement in listed.items():
        (clause,) = requirement.specifier
        assert clause.operator == '==', name
    # torchvision is linked to CUDA; opencv-python needs libGL.
    assert not {'torchvision', 'opencv-python'} & set(listed)


def test_the_lists_are_complete():
    """--no-deps is safe only if nothing that is needed is left out."""
    listed = requirements('torch.txt', *COMPLETE)
    known = {
        'opencv-python',  # opencv-python-headless gives the same module
        'networkx',  # torch brings it
        'pip',  # the environment has it
        'imagecorruptions-imaug',  # for the transform Corrupt alone
        'opendatalab',  # for `mim download` of data sets alone
    }
    checked = 0
    for name, pin in listed.items():
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if name == 'torch' or not pin.specifier.contains(found.version):
            continue
        needs = found.requires or []
        checked += 1
        for need in map(Requirement, needs):
            if need.marker and not need.marker.evaluate({'extra': ''}):
                continue
            assert canonicalize_name(need.name) in {*listed, *known}, (
                f'{name} needs {need.name}'
            )
    assert checked > 20


# --- the package ----------------------------------------------------------


@pytest.fixture(scope='module')
def clone(tmp_path_factory) -> Path:
    """What a build needs, where it may write."""
    target = tmp_path_factory.mktemp('clone')
    ignore = shutil.ignore_patterns('__pycache__', '.mim', '*.so')
    for name in 'mmrfa', 'configs', 'tools':
        shutil.copytree(REPO / name, target / name, ignore=ignore)
    files = 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE'
    for name in files:
        shutil.copy(REPO / name, target)
    return target


def build(clone: Path, kind: str, out: Path) -> Path:
    """Run the build backend as pip does, without network."""
    out.mkdir()
    call = f'build_{kind}({str(out)!r})'
    subprocess.run(
        [
            sys.executable,
            '-c',
            f'import setuptools.build_meta as backend; backend.{call}',
        ],
        cwd=clone,
        check=True,
        capture_output=True,
        # Compiling the kernels takes minutes and is tested elsewhere.
        env={**os.environ, 'PYTHONPATH': '', 'MMRFA_KERNELS': '0'},
    )
    (made,) = out.iterdir()
    return made


def test_the_wheel_ships_configs_and_asks_for_torch_only(clone, tmp_path):
    wheel = zipfile.ZipFile(build(clone, 'wheel', tmp_path / 'out'))
    names = set(wheel.namelist())
    configs = {
        path.relative_to(clone).as_posix()
        for path in (clone / 'configs').rglob('*.py')
    }
    assert {f'mmrfa/.mim/{name}' for name in configs} <= names
    assert 'mmrfa/.mim/tools/train.py' in names
    modules = {
        path.relative_to(clone).as_posix()
        for path in (clone / 'mmrfa').rglob('*.py')
        if '.mim' not in path.parts
    }
    assert modules <= names
    assert not [n for n in names if n.startswith(('tests', 'scripts'))]
    (file,) = [n for n in names if n.endswith('.dist-info/METADATA')]
    lines = wheel.read(file).decode().splitlines()
    needs = [
        Requirement(line.removeprefix('Requires-Dist: '))
        for line in lines
        if line.startswith('Requires-Dist: ')
    ]
    assert [n.name for n in needs if not n.marker] == ['torch']
    assert 'torchvision' not in {n.name for n in needs}
    for extra in 'seg', 'det', 'cls':
        wanted = {n.name for n in needs if f'"{extra}"' in str(n.marker)}
        assert {'onedl-mmengine', 'onedl-mmcv'} < wanted
        assert all(name.startswith('onedl-') for name in wanted)


def test_the_pins_lie_in_the_ranges_of_the_extras():
    if sys.version_info < (3, 11):
        pytest.skip('tomllib came with Python 3.11')
    import tomllib

    project = tomllib.loads((REPO / 'pyproject.toml').read_text())['project']
    pins = requirements('torch.txt', *COMPLETE)
    checked = 0
    for extra in 'seg', 'det', 'triton':
        for need in project['optional-dependencies'][extra]:
            need = Requirement(need)
            (pin,) = pins[need.name].specifier
            assert need.specifier.contains(pin.version)
            checked += 1
    assert checked >= 7


def test_an_editable_install_links_the_configs(clone, tmp_path):
    build(clone, 'editable', tmp_path / 'out')
    mim = clone / 'mmrfa/.mim'
    assert (mim / 'configs').resolve() == (clone / 'configs').resolve()
    assert (mim / 'tools').resolve() == (clone / 'tools').resolve()
    # And a second time, over the links of the first.
    build(clone, 'editable', tmp_path / 'again')
    assert (mim / 'configs').is_symlink() and (clone / 'configs').is_dir()


# --- make -----------------------------------------------------------------


@pytest.mark.parametrize('how', ['-C', '-f'])
def test_make_works_from_any_folder(tmp_path, how):
    where = REPO if how == '-C' else REPO / 'Makefile'
    run = subprocess.run(
        ['make', how, where, '-n', 'demo', 'TORCH=torch==2.12.0'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"cd '{REPO}' && " in run.stdout
    assert "--torch 'torch==2.12.0'" in run.stdout
    assert f"MMRFA_DATA_ROOT='{REPO}/data/sample'" in run.stdout
