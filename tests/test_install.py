"""The installer: early and clear stops, no half work."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
KEY = 'onedl-mmcv-1.0_torch-9.8+cpu'


@pytest.fixture
def bootstrap(tmp_path, monkeypatch):
    """The installer of a clone in ``tmp_path``, which has mmcv 1.0."""
    spec = importlib.util.spec_from_file_location(
        'bootstrap', REPO / 'scripts/bootstrap.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'REPO', tmp_path)
    monkeypatch.setattr(module, 'VENV', tmp_path / '.venv')
    monkeypatch.setattr(module, 'LOG', tmp_path / 'work_dirs/install.log')
    monkeypatch.setattr(module, 'WHEELS', tmp_path / 'wheels')
    for folder in '.venv', 'work_dirs', 'requirements', 'wheels':
        (tmp_path / folder).mkdir()
    (tmp_path / 'requirements/mmcv.txt').write_text('# mmcv\nonedl-mmcv==1.0')
    module.LOG.touch()
    return module


def script(path: Path, text: str) -> Path:
    """A shell script that stands for a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


# --- early stops ----------------------------------------------------------


@pytest.mark.parametrize('version', [(3, 9, 18), (3, 15, 0)])
def test_wrong_python_is_named(bootstrap, monkeypatch, version):
    monkeypatch.setattr(bootstrap.sys, 'version_info', version)
    with pytest.raises(bootstrap.Stop) as stop:
        bootstrap.main(['lint'], '')
    got = '.'.join(map(str, version))
    assert f'Python 3.10 to 3.14 is needed, got {got}' in str(stop.value)
    assert 'make PYTHON=' in str(stop.value)


def test_full_disk_stops_before_torch(bootstrap, monkeypatch):
    usage = shutil.disk_usage(REPO)._replace(free=int(2.9e9))
    monkeypatch.setattr(bootstrap.shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(bootstrap.Stop, match=r'3 GB .* got 2\.9 GB'):
        bootstrap.install_torch('')
    monkeypatch.setattr(bootstrap, 'VENV', bootstrap.REPO / '.venv-cls')
    with pytest.raises(bootstrap.Stop, match=r'8 GB .* got 2\.9 GB'):
        bootstrap.install_torch('')


def test_missing_venv_module_names_the_package(bootstrap, monkeypatch):
    monkeypatch.setattr(
        bootstrap.util, 'find_spec', lambda name: name != 'ensurepip' or None
    )
    with pytest.raises(bootstrap.Stop, match=r'apt install python3\.\d+-venv'):
        bootstrap.make_venv('')


def test_missing_compiler_is_named(bootstrap, monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(bootstrap.Stop, match='no-such-compiler.*build-essent'):
        bootstrap.build_mmcv('onedl-mmcv==1.0', tmp_path)
    monkeypatch.setenv('CXX', 'sh')
    monkeypatch.setattr(bootstrap.sysconfig, 'get_path', lambda _: '/none')
    with pytest.raises(bootstrap.Stop, match=r'Python\.h .*3\.\d+-dev'):
        bootstrap.build_mmcv('onedl-mmcv==1.0', tmp_path)


@pytest.mark.slow
def test_no_network_is_one_line(tmp_path):
    """For real: a clone whose package index cannot be reached."""
    for folder in 'scripts', 'requirements':
        shutil.copytree(REPO / folder, tmp_path / folder)
    env = {k: v for k, v in os.environ.items() if not k.startswith('PIP_')}
    env |= {
        'PIP_CONFIG_FILE': os.devnull,
        'PIP_INDEX_URL': 'http://127.0.0.1:9/simple',
        'PIP_RETRIES': '1',
    }
    run = subprocess.run(
        [sys.executable, tmp_path / 'scripts/bootstrap.py', 'lint'],
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith('error: lint: no network')
    log = Path(re.search(r'\(log: (.*)\)', line)[1])
    assert '127.0.0.1' in log.read_text()
    assert not (tmp_path / '.venv/unfinished').exists()


# --- running commands -----------------------------------------------------


@pytest.mark.parametrize(
    ('output', 'said'),
    [
        (
            'WARNING: Retrying (Retry(total=4)) after connection broken by',
            'no n',
        ),
        ('OSError: [Errno 28] No space left on device', 'the disk is full'),
        ('ERROR: No matching distribution found for torch==2.1.2', 'PYTHON='),
        ('a.cpp:3:1: error: expected ;', 'expected ;'),
        ('', 'failed'),
    ],
)
def test_failure_is_one_line_and_logged(bootstrap, tmp_path, output, said):
    program = script(
        tmp_path / 'fails', f'echo first; echo "{output}" >&2; exit 3'
    )
    bootstrap.run('before', 'echo', 'ERROR: of another command')
    with pytest.raises(bootstrap.Stop) as stop:
        bootstrap.run('step', program)
    assert str(stop.value).startswith('step: ')
    assert said in str(stop.value) and '\n' not in str(stop.value)
    assert str(bootstrap.LOG) in str(stop.value)
    assert f'first\n{output}\n' in bootstrap.LOG.read_text()


def test_progress_is_shown_while_a_command_works(
    bootstrap, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bootstrap, 'HEARTBEAT', 0.1)
    text = 'echo "[7/8] c++ -MMD a.cpp"; sleep 0.5; echo end'
    output = bootstrap.run('step', script(tmp_path / 'slow', text))
    assert output == '[7/8] c++ -MMD a.cpp\nend'
    assert re.search(r'step, 0.\d+ s: \[7/8\] c\+\+', capsys.readouterr().out)


def test_an_environment_is_made_anew_only_if_need_be(bootstrap, monkeypatch):
    python = script(bootstrap.VENV / 'bin/python', 'exit 0')
    made = []
    monkeypatch.setattr(bootstrap, 'run', lambda *a: made.append(a[2:5]))
    bootstrap.make_venv('')
    bootstrap.install_torch('torch==2.12.0 --index-url URL')
    made.clear()
    for torch in '', 'torch==2.12.0 --index-url URL':
        bootstrap.make_venv(torch)
    assert made == []  # nothing to do
    bootstrap.make_venv('torch==2.11.0')
    assert made == [('-m', 'venv', '--clear')]
    script(python, 'exit 1')  # the Python it was made with is gone
    bootstrap.make_venv('')
    assert len(made) == 2
    script(python, 'exit 0')

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, 'run', killed)
    with pytest.raises(KeyboardInterrupt):
        bootstrap.install('base', '-rbase.txt')
    monkeypatch.setattr(bootstrap, 'run', lambda *a: made.append(a[2:5]))
    bootstrap.make_venv('')
    assert len(made) == 3


def test_the_torch_once_chosen_is_kept(bootstrap, monkeypatch):
    asked = []
    monkeypatch.setattr(bootstrap, 'install', lambda *a: asked.append(a[1:]))
    bootstrap.install_torch('')
    bootstrap.install_torch('torch==2.12.0 --index-url URL')
    bootstrap.install_torch('')
    assert asked[0] == ('-r', 'requirements/torch.txt')
    assert asked[1] == asked[2] == ('torch==2.12.0', '--index-url', 'URL')


def test_mmrfa_is_installed_again_when_its_metadata_change(
    bootstrap, monkeypatch, tmp_path
):
    (tmp_path / 'mmrfa').mkdir()
    for name in 'setup.py', 'pyproject.toml', 'mmrfa/version.py':
        (tmp_path / name).touch()
    count = []
    monkeypatch.setattr(bootstrap, 'install', lambda *a, **_: count.append(a))
    bootstrap.install_mmrfa()
    bootstrap.install_mmrfa()
    assert len(count) == 1
    (tmp_path / 'mmrfa/version.py').write_text('2')
    bootstrap.install_mmrfa()
    assert len(count) == 2


# --- mmcv -----------------------------------------------------------------


@pytest.fixture
def builds(bootstrap, monkeypatch):
    """Compiling takes no time and gives what ``tag`` says."""

    class Builds(list):
        tag, loads = 'cp311-linux', True

    builds = Builds()

    def python(title, *arguments, **env):
        if bootstrap.KEY in arguments:
            return 'torch-9.8+cpu'
        if 'download' in arguments:
            folder = Path(arguments[arguments.index('-d') + 1])
            source = folder / 'onedl_mmcv-1.0/mmcv/ops/csrc/pytorch'
            (source / 'cpu').mkdir(parents=True)
            for name in 'a', 'b', 'pybind', 'cpu/psamask', 'cpu/c':
                (source / f'{name}.cpp').write_text(name)
            top = 'onedl_mmcv-1.0'
            shutil.make_archive(folder / top, 'gztar', folder, top)
            shutil.rmtree(folder / top)
        elif 'wheel' in arguments:
            (source,) = [a for a in arguments if isinstance(a, Path)]
            builds.append((source, env))
            builds.files = {
                file.relative_to(source).as_posix(): file.read_text()
                for file in source.rglob('*.*')
                if file.is_file()
            }
            out = Path(arguments[arguments.index('-w') + 1])
            (out / f'onedl_mmcv-1.0-{builds.tag}.whl').write_text('whole')
        elif 'install' in arguments:
            site = bootstrap.VENV / 'lib/python3/site-packages/mmcv'
            site.mkdir(parents=True, exist_ok=True)
            (site / '_ext.so').touch()
        elif not builds.loads:
            raise bootstrap.Stop('mmcv: undefined symbol')
        return ''

    monkeypatch.setattr(bootstrap, 'python', python)
    return builds


def test_operators_are_built_once_for_all_clones(bootstrap, builds, tmp_path):
    bootstrap.install_operators()
    wheel = tmp_path / f'wheels/{KEY}/onedl_mmcv-1.0-cp311-linux.whl'
    assert wheel.read_text() == 'whole'
    assert sorted(p.name for p in wheel.parents[1].iterdir()) == [
        KEY, f'{KEY}.lock',
    ]  # fmt: skip
    bootstrap.install_operators()  # there
    shutil.rmtree(bootstrap.VENV)
    bootstrap.VENV.mkdir()
    bootstrap.install_operators()  # cached
    assert len(builds) == 1
    mark = bootstrap.VENV / 'mmcv-operators.txt'
    assert mark.read_text() == KEY
    mark.write_text('those of another torch')
    wheel.unlink()
    bootstrap.install_operators()
    assert len(builds) == 2


def test_small_files_are_compiled_as_one(bootstrap, builds):
    """And optimised: CFLAGS replaces what Python was built with."""
    bootstrap.install_operators()
    ((_, env),) = builds
    assert '-O2' in env['CFLAGS'].split() and '-g0' in env['CFLAGS'].split()
    folder = 'mmcv/ops/csrc/pytorch/'
    assert builds.files == {
        f'{folder}a.inl': 'a',
        f'{folder}b.inl': 'b',
        f'{folder}united.cpp': '#include "a.inl"\n#include "b.inl"\n',
        f'{folder}pybind.cpp': 'pybind',
        f'{folder}cpu/c.inl': 'cpu/c',
        f'{folder}cpu/united.cpp': '#include "c.inl"\n',
        f'{folder}cpu/psamask.cpp': 'cpu/psamask',
    }


def test_a_failed_build_leaves_no_wheel(bootstrap, builds):
    builds.tag = 'py3-none-any'
    with pytest.raises(bootstrap.Stop, match='without operators'):
        bootstrap.install_operators()
    left = [p.name for p in bootstrap.WHEELS.rglob('*') if p.is_file()]
    assert left == [f'{KEY}.lock']
    builds.tag, builds.loads = 'cp311-linux', False
    for _ in range(2):  # it is not taken for installed the second time
        with pytest.raises(bootstrap.Stop, match='delete it.*undefined symb'):
            bootstrap.install_operators()


def test_one_build_at_a_time(tmp_path):
    """A second process waits, says so, and goes on when the first ends."""
    code = (
        'import sys; from pathlib import Path; import bootstrap\n'
        'with bootstrap.locked(Path(sys.argv[1])):\n'
        '    print("in", flush=True); sys.stdin.read()'
    )
    pipes = dict(
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=REPO / 'scripts',
    )  # fmt: skip
    command = [sys.executable, '-c', code, tmp_path / 'lock']
    with subprocess.Popen(command, **pipes) as first:
        assert first.stdout.readline() == 'in\n'
        with subprocess.Popen(command, **pipes) as second:
            assert 'waiting' in second.stdout.readline()
            time.sleep(0.2)
            assert second.poll() is None
            first.communicate()
            assert second.communicate()[0] == 'in\n'


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
