"""Errors of users end in one line, defects keep their traceback."""

import io
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mmrfa.engine.cli import run_tool
from mmrfa.engine.config import prepare_distributed, set_work_dir
from mmrfa.engine.stopping import resume_command
from mmrfa.errors import InputError


def test_debugging_shows_the_traceback(monkeypatch, capsys) -> None:
    def main() -> None:
        raise InputError('a thing')

    assert run_tool(main) == 2
    assert capsys.readouterr().err == 'error: a thing\n'
    monkeypatch.setenv('MMRFA_DEBUG', '1')
    assert run_tool(main) == 2
    assert 'Traceback' in capsys.readouterr().err


def test_stopped_by_the_user(capsys) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    assert run_tool(main) == 130
    assert 'Traceback' not in capsys.readouterr().err


def test_defects_pass() -> None:
    """What is no user's error keeps its traceback."""

    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_tool(main)


def test_disk_full(capsys) -> None:
    def main() -> None:
        raise OSError(28, 'No space left on device', 'iter_6.pth')

    assert run_tool(main) == 2
    assert 'No space left on device: iter_6.pth' in capsys.readouterr().err


def test_nobody_reads_the_output() -> None:
    code = (
        'import sys; from mmrfa.engine.cli import run_tool\n'
        'sys.exit(run_tool(lambda: print("x" * 10**6)))'
    )
    tool = subprocess.Popen(
        [sys.executable, '-c', code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    tool.stdout.close()
    assert tool.stderr.read() == b''
    assert tool.wait() == 141


def test_a_terminal_of_ascii(monkeypatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    monkeypatch.setattr(sys, 'stdout', out)
    assert run_tool(lambda: print('R\u00e9sum\u00e9')) == 0
    assert out.buffer.getvalue() == b'R\\xe9sum\\xe9\n'


def test_dangling_link_as_work_dir(tmp_path) -> None:
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    config = SimpleNamespace(filename='a.py')
    with pytest.raises(InputError, match='link is a dangling link'):
        set_work_dir(config, str(tmp_path / 'link' / 'below'))


def test_launcher_that_did_not_start_this(monkeypatch) -> None:
    for variable in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match='expected RANK, WORLD_SIZE, MASTER'):
        prepare_distributed(SimpleNamespace(), 'pytorch')


@pytest.mark.parametrize('resume', [[], ['--resume'], ['--resume', 'a.pth']])
def test_command_to_go_on(resume) -> None:
    words = ['tools/train.py', 'my config.py', *resume, '--cfg-options', 'a=1']
    assert resume_command(words) == (
        "python tools/train.py --resume=auto 'my config.py' --cfg-options a=1"
    )
