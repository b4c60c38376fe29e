"""Calling the tools as a user does, in a process of their own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).resolve().parents[2]
TOOLS = REPO / 'tools'
TINY_SEG = Path(__file__).with_name('tiny_seg.py')


def environment(**extra: object) -> dict[str, str]:
    """The environment of a tool in a process of its own."""
    env = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1')
    path = [str(REPO), env.get('PYTHONPATH', '')]
    env['PYTHONPATH'] = os.pathsep.join(filter(None, path))
    return env | {key: str(value) for key, value in extra.items()}


def load_tool(tool: str) -> ModuleType:
    """``tools/TOOL`` as a module of this process."""
    spec = importlib.util.spec_from_file_location('tool', TOOLS / tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(
    *command: object, cwd: Path, **env: object
) -> subprocess.CompletedProcess:
    """Run ``tools/COMMAND`` in a process of its own, output captured."""
    tool, *arguments = map(str, command)
    start = 'bash' if tool.endswith('.sh') else sys.executable
    return subprocess.run(
        [start, str(TOOLS / tool), *arguments],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def forget_instances() -> None:
    """Drop the loggers and visualizers that MMEngine keeps by name."""
    from mmengine.utils import ManagerMixin

    kinds = [ManagerMixin]
    while kinds:
        kind = kinds.pop()
        kind._instance_dict.clear()
        kinds += kind.__subclasses__()


def error_of(status: int, stderr: str) -> str:
    """The one error line of a run that had to fail."""
    lines = [s for s in stderr.splitlines() if s.startswith('error: ')]
    assert status == 2, stderr
    assert len(lines) == 1, stderr
    assert 'Traceback' not in stderr, stderr
    return lines[0]
