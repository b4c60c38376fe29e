"""Check the OpenMMLab packages before they are imported.

They exist twice: the maintained forks (distributions ``onedl-*``) and the
originals. Both install the same modules, so one over the other breaks an
environment, and neither checks that its companions are there.
"""

import warnings
from importlib import util
from importlib.metadata import PackageNotFoundError, version

# module: (fork, tested from, up to), (original, tested from, up to)
PACKAGES = {
    'mmengine': (
        ('onedl-mmengine', '0.10.12', '0.11'),
        ('mmengine', '0.10.7', '0.11'),
    ),
    'mmcv': (('onedl-mmcv', '2.3.6', '2.4'), ('mmcv', '2.1.0', '2.2')),
    'mmseg': (
        ('onedl-mmsegmentation', '1.4.2', '1.5'),
        ('mmsegmentation', '1.2.2', '1.3'),
    ),
    'mmdet': (
        ('onedl-mmdetection', '3.5.1', '3.6'),
        ('mmdet', '3.3.0', '3.4'),
    ),
}
OPTIONAL = ('mmdet',)


def check_family() -> None:
    """Say in one line what is wrong with the installed OpenMMLab packages.

    Raises:
        ImportError: a package is missing, both families are there, a
            version is older than the oldest tested one, or the original
            mmseg lacks mmcv's operators, which the fork does not import.

    Warns:
        UserWarning: a version is newer than the tested ones.
    """
    found = {
        module: [
            (name, installed, low, high)
            for name, low, high in names
            if (installed := _installed(name)) is not None
        ]
        for module, names in PACKAGES.items()
    }
    fork = {names[0][0] for names in PACKAGES.values()}
    present = [entry[0] for entries in found.values() for entry in entries]
    forks = sorted(name for name in present if name in fork)
    originals = sorted(name for name in present if name not in fork)
    if forks and originals:
        raise ImportError(
            'mmrfa: expected one family of OpenMMLab packages, got both '
            f'{", ".join(forks)} and {", ".join(originals)}; uninstall all '
            'of them, then install one (docs/install.md)'
        )
    for module, entries in found.items():
        if not entries and module not in OPTIONAL:
            wanted = PACKAGES[module][1 if originals else 0]
            raise ImportError(
                f'mmrfa.models: package {wanted[0]} (module {module}) is not '
                f'installed; {_advice(*wanted)}'
            )
        for name, installed, low, high in entries:
            if _key(installed) < _key(low):
                raise ImportError(
                    f'mmrfa.models: expected {name} >= {low}, < {high}, got '
                    f'{installed}; {_advice(name, low, high)}'
                )
            if _key(installed) >= _key(high):
                warnings.warn(
                    f'mmrfa is tested with {name} >= {low}, < {high}; '
                    f'{installed} is installed',
                    stacklevel=3,
                )
    if originals and not _has_operators():
        raise ImportError(
            'mmrfa.models: mmsegmentation needs the compiled operators of '
            'mmcv, which are not installed; pip install --no-build-isolation '
            '--no-cache-dir --force-reinstall --no-deps '
            f'mmcv=={PACKAGES["mmcv"][1][1]}'
        )


def package_of(module: str) -> str:
    """Name what to install for a module, in the family that is in use.

    Args:
        module (str): mmseg, mmdet, mmpretrain, or any other.

    Returns:
        str: a distribution; for other modules their own name.
    """
    names = {key: (fork[0], own[0]) for key, (fork, own) in PACKAGES.items()}
    names['mmpretrain'] = ('onedl-mmpretrain', 'mmpretrain')
    originals = any(_installed(own) for _, own in names.values())
    return names.get(module, (module, module))[originals]


def _advice(name: str, low: str, high: str) -> str:
    return f'pip install "{name}>={low},<{high}"'


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _has_operators() -> bool:
    return util.find_spec('mmcv._ext') is not None


def _key(text: str) -> tuple[int, ...]:
    """Numeric part of a version, as a tuple that compares."""
    parts = text.split('+')[0].split('.')
    return tuple(int(p) for p in parts if p.isdigit())
