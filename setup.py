"""Metadata is in pyproject.toml; here is only what that file cannot say."""

import os
import platform
import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
KERNELS = 'mmrfa/ops/primitives/cpu'
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


def cpu_kernels() -> dict:
    """Arguments of ``setup`` that build the CPU kernels, where that works.

    Without them the operators run on stock PyTorch. MMRFA_KERNELS=0 leaves
    them out.
    """
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        missing = 'torch is not there at build time (build isolation?)'
    else:
        agreed = runpy.run_path(str(ROOT / KERNELS / 'build.py'))
        missing = agreed['old_torch'](torch.__version__)
        if shutil.which(os.environ.get('CXX', 'c++')) is None:
            missing = 'no C++ compiler was found'
    if platform.machine() not in ('x86_64', 'AMD64'):
        missing = f'they are for x86-64, this is {platform.machine()}'
    if os.environ.get('MMRFA_KERNELS') == '0':
        missing = 'MMRFA_KERNELS=0'
    if missing:
        print(f'mmrfa: CPU kernels are not built: {missing}')
        return {}
    stem = agreed['library_stem'](torch.__version__)
    digest = agreed['sources_digest']()

    def sources(*endings: str) -> list[str]:
        found = agreed['sources'](*endings)
        return [str(file.relative_to(ROOT)) for file in found]

    extension = CppExtension(
        f'{KERNELS.replace("/", ".")}.{stem}',
        sources('.cpp'),
        depends=sources('.h', '.inl'),
        define_macros=[('MMRFA_SOURCES', f'"{digest}"')],
        # at::parallel_for is serial in code compiled without OpenMP. Not
        # linked: torch brings the library, and there must be only one.
        extra_compile_args=[
            '-O3',
            '-fopenmp',
            '-Wno-psabi',
            '-Wno-maybe-uninitialized',  # in GCC's own headers
            '-ffp-contract=fast',
        ],
        optional=True,
    )
    build = BuildExtension.with_options(no_python_abi_suffix=True)
    return dict(ext_modules=[extension], cmdclass={'build_ext': build})


arguments = cpu_kernels()
arguments.setdefault('cmdclass', {})['build_py'] = BuildWithMim
setup(**arguments)
