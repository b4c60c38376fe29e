"""Calling the tools in this process; a run that many tests start from."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrfa.engine.cli import run_tool

from .tiny_networks import SEG, YOLOX, save_random
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


@pytest.fixture
def mmcv_operators() -> None:
    """Skip where MMCV has no compiled operators."""
    pytest.importorskip('mmcv._ext', reason='needs the operators of mmcv')


@pytest.fixture(scope='session')
def seg_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the smallest segmentor."""
    return save_random(tmp_path_factory.mktemp('seg') / 'net.pth', SEG)


@pytest.fixture(scope='session')
def yolox_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the smallest one-stage detector."""
    path = tmp_path_factory.mktemp('yolox') / 'net.pth'
    return save_random(path, YOLOX)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images of two sizes, of which the pipeline makes one."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for i, size in enumerate([(40, 30), (60, 50), (40, 30)]):
        pixels = np.random.randint(0, 255, (*size[::-1], 3), np.uint8)
        pixels[:, : size[0] // 2] //= 8  # dark on the left
        Image.fromarray(pixels).save(folder / f'{i}.png')
    return folder
