"""Errors of users end in one line, defects keep their traceback."""

import pytest

from mmrfa.engine.cli import run_tool
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
