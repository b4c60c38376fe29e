"""Metadata is in pyproject.toml; here is only what that file cannot say."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
SHIPPED = 'configs', 'tools', 'model-index.yml'


class BuildWithMim(build_py):
    """Put configs and tools below ``mmrfa/.mim``, where MIM looks for them.

    A wheel gets copies. An editable install, which runs this command too,
    gets links, so that an edited config is the one that is used.
    """

    def run(self) -> None:
        super().run()
        package = ROOT if self.editable_mode else Path(self.build_lib)
        mim = package / 'mmrfa' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in SHIPPED:
            source, target = ROOT / name, mim / name
            if not source.exists():
                continue
            if self.editable_mode:
                target.symlink_to(os.path.relpath(source, mim))
            elif source.is_dir():
                ignore = shutil.ignore_patterns('__pycache__')
                shutil.copytree(source, target, ignore=ignore)
            else:
                shutil.copy2(source, target)


setup(
    cmdclass={'build_py': BuildWithMim},
    # An optional C++ extension belongs here: none yet.
    ext_modules=[],
)
