"""The command mmrfa: the tools by short names."""

import sys

import pytest

from mmrfa import console


@pytest.fixture
def run(monkeypatch):
    def call(*arguments: object) -> object:
        monkeypatch.setattr(sys, 'argv', ['mmrfa', *map(str, arguments)])
        monkeypatch.setattr(sys, 'path', [*sys.path])
        try:
            return console.main()
        except SystemExit as end:
            return end.code

    return call


def test_every_tool_is_a_command():
    scripts = {
        path.relative_to(console.folder()).as_posix()
        for path in console.folder().rglob('*.py')
    }
    assert scripts == {script for script, _ in console.COMMANDS.values()}


def test_every_command_is_a_tool_that_tells_its_options(run, capsys):
    for command, (script, _) in console.COMMANDS.items():
        assert (console.folder() / script).is_file(), script
        assert run(command, '-h') == 0
        assert capsys.readouterr().out.count(f'usage: mmrfa {command} ') == 1


def test_it_says_what_there_is(run, capsys):
    for arguments in ((), ('-h',)):
        assert run(*arguments) == 0
        printed = capsys.readouterr().out
        assert all(f'\n  {name} ' in printed for name in console.COMMANDS)
    assert run('trian') == 2
    assert 'error: mmrfa: expected one of train' in capsys.readouterr().err


def test_arguments_and_status_are_those_of_the_tool(run, capsys, tmp_path):
    assert run('train', tmp_path / 'none.py') == 2
    line = f'error: config {tmp_path}/none.py: expected a file, found none'
    assert line in capsys.readouterr().err


def test_the_forms_are_told(run, capsys):
    run('forms')
    assert (
        'aw_conv2d          reference  cpu   runs' in capsys.readouterr().out
    )
