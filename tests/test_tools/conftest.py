"""Calling the tools in this process; a run that many tests start from."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mmrfa.engine.cli import run_tool

from .tool_calls import TINY_SEG, forget_instances, load_tool, run_script


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, sample_root: Path
) -> Callable[..., int]:
    """``call('train.py', ...)``: run a tool here; returns its exit status."""
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(sample_root))
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.delenv('MMRFA_TRUST_CHECKPOINT', raising=False)

    def run(tool: str, *arguments: object) -> int:
        forget_instances()
        main = load_tool(tool).main
        return run_tool(lambda: main([str(a) for a in arguments]))

    yield run
    os.environ.pop('MMRFA_TRUST_CHECKPOINT', None)


@pytest.fixture(scope='session')
def trained(
    tmp_path_factory: pytest.TempPathFactory, sample_root: Path
) -> Path:
    """Work dir of six iterations on the sample, made by the command line."""
    folder = tmp_path_factory.mktemp('trained')
    done = run_script(
        'train.py',
        TINY_SEG,
        '--work-dir',
        'run',
        cwd=folder,
        MMRFA_DATA_ROOT=sample_root,
    )
    assert done.returncode == 0, done.stderr
    return folder / 'run'
