"""The OpenMMLab packages: which ones are there, and names for our configs.

They exist twice: the maintained forks (distributions ``onedl-*``) and the
originals. Both install the same modules, so one over the other breaks an
environment, and neither checks that its companions are there.
"""

import importlib
import re
import warnings
from importlib import metadata, util

from mmrfa.errors import InputError

# module: distribution of the fork, distribution of the original
DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
}
OPTIONAL = ('mmdet', 'mmpretrain')
# Tested versions of the originals. Those of the forks are what our own
# metadata ask for.
ORIGINALS = (
    'mmengine>=0.10.7,<0.11',
    'mmcv>=2.1.0,<2.2',
    'mmsegmentation>=1.2.2,<1.3',
    'mmdet>=3.3.0,<3.4',
)


def check_distribution() -> None:
    """Say in one line what is wrong with the installed OpenMMLab packages.

    Raises:
        ImportError: a package is missing, forks and originals are mixed, a
            version is older than the oldest tested one, or the original
            mmseg lacks mmcv's operators, which the fork does not import.

    Warns:
        UserWarning: a version is newer than the tested ones.
    """
    names = [name for pair in DISTRIBUTIONS.values() for name in pair]
    found = {n: v for n in names if (v := _installed(n)) is not None}
    forks, originals = (
        [pair[i] for pair in DISTRIBUTIONS.values() if pair[i] in found]
        for i in (0, 1)
    )
    if forks and originals:
        raise ImportError(
            'mmrfa: expected one distribution of the OpenMMLab packages, got '
            f'both {", ".join(forks)} and {", ".join(originals)}; uninstall '
            'all of them, then install one (docs/install.md)'
        )
    tested = tested_versions()
    for module, pair in DISTRIBUTIONS.items():
        name = pair[bool(originals)]
        wanted = tested.get(name, name)
        if name in found:
            _check_version(name, found[name], wanted)
        elif module not in OPTIONAL:
            raise ImportError(
                f'mmrfa.models: package {name} (module {module}) is not '
                f'installed; pip install "{wanted}"'
            )
    if originals and not _has_operators():
        oldest = re.search(r'>=([\d.]+)', tested['mmcv'])[1]
        raise ImportError(
            'mmrfa.models: mmsegmentation needs the compiled operators of '
            'mmcv, which are not installed; pip install --no-build-isolation '
            f'--no-cache-dir --force-reinstall --no-deps mmcv=={oldest}'
        )


def tested_versions() -> dict[str, str]:
    """List the versions that mmrfa is tested with.

    Returns:
        dict[str, str]: requirement by distribution, as pip takes it. Of a
        copy of mmrfa that was never installed, the originals only.
    """
    try:
        ours = metadata.requires('mmrfa') or []
    except metadata.PackageNotFoundError:
        ours = []
    texts = [text.partition(';')[0].strip() for text in (*ours, *ORIGINALS)]
    return {re.match(r'[\w.-]+', text)[0]: text for text in texts}


def package_of(module: str) -> str:
    """Name what to install for a module, of the distribution in use.

    Args:
        module (str): mmseg, mmdet, mmpretrain, or any other.

    Returns:
        str: a distribution; for other modules their own name.
    """
    originals = any(_installed(own) for _, own in DISTRIBUTIONS.values())
    return DISTRIBUTIONS.get(module, (module, module))[originals]


def import_package(module: str) -> None:
    """Import a module that needs OpenMMLab packages.

    Args:
        module (str): its name.

    Raises:
        InputError: it is missing, needs mmcv's compiled operators, or fails.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        if '_ext' in str(error):
            raise InputError(
                f'{module} needs the compiled operators of mmcv, which are '
                'not installed; `make ops` in a clone of mmrfa adds them'
            ) from error
        missing = (error.name or '').partition('.')[0]
        if missing in DISTRIBUTIONS or missing == module.partition('.')[0]:
            raise _missing(module, missing) from error
        if str(error).startswith('mmrfa'):  # our own check of the packages
            raise InputError(str(error)) from error
        raise InputError(f'cannot import {module}: {error}') from error


def _missing(what: str, module: str) -> InputError:
    package = package_of(module)
    return InputError(
        f'{what} needs package {package}, which is not installed; pip '
        f'install {package}'
    )


def allow_config_scopes() -> None:
    """Make ``mmrfa::...`` and ``mmseg::...`` names of configs; idempotent.

    MMEngine keeps a fixed list of packages whose configs ``_base_`` and
    ``mmengine.hub.get_config`` can name so, and marks what it reads from one
    of them with that package's registry. Our configs build models of mmseg
    and mmdet and say so in ``default_scope``; the mark would hide those. The
    list also knows the originals only, so that ``mmseg::...`` fails where
    the fork is installed.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    for module, (fork, _) in DISTRIBUTIONS.items():
        if module in MODULE2PACKAGE and _installed(fork):
            MODULE2PACKAGE[module] = fork
    if 'mmrfa' in MODULE2PACKAGE:
        return
    MODULE2PACKAGE['mmrfa'] = 'mmrfa'
    find = Config._get_cfg_path

    def find_without_mark(cfg_path: str, filename: str) -> tuple:
        try:
            path, scope = find(cfg_path, filename)
        except ModuleNotFoundError as error:
            module = cfg_path.partition('::')[0]
            raise _missing(f'config {cfg_path}', module) from error
        return path, None if scope == 'mmrfa' else scope

    Config._get_cfg_path = staticmethod(find_without_mark)


def _check_version(name: str, installed: str, wanted: str) -> None:
    # MMEngine and mmcv bring it along; without them nothing comes here.
    from packaging.requirements import Requirement

    allowed = Requirement(wanted).specifier
    least = [bound for bound in allowed if bound.operator == '>=']
    if not all(b.contains(installed, prereleases=True) for b in least):
        raise ImportError(
            f'mmrfa.models: expected {wanted}, got {installed}; pip install '
            f'"{wanted}"'
        )
    if not allowed.contains(installed, prereleases=True):
        warnings.warn(
            f'mmrfa is tested with {wanted}; {installed} is installed',
            stacklevel=4,
        )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _has_operators() -> bool:
    return util.find_spec('mmcv._ext') is not None
