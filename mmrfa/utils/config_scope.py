"""``mmrfa::...`` in ``_base_`` and in ``mmengine.hub.get_config``.

MMEngine keeps a fixed list of packages whose configs can be named so, and
marks what it reads from one of them with that package's registry. Our configs
build models of mmseg and mmdet and say so in ``default_scope``; the mark would
hide those. The list also knows mmsegmentation under its original name only,
so that ``mmseg::...`` fails where the maintained fork is installed.
"""

from importlib.metadata import PackageNotFoundError, distribution

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

NAME = 'mmrfa'
FORKS = {
    'mmseg': 'onedl-mmsegmentation',
    'mmdet': 'onedl-mmdetection',
    'mmpretrain': 'onedl-mmpretrain',
}


def allow_config_scopes() -> None:
    """Let MMEngine find our configs, and those of the forks; idempotent."""
    for module, fork in FORKS.items():
        if _installed(fork):
            MODULE2PACKAGE[module] = fork
    if NAME in MODULE2PACKAGE:
        return
    MODULE2PACKAGE[NAME] = NAME
    find = Config._get_cfg_path

    def find_without_mark(cfg_path: str, filename: str) -> tuple:
        path, scope = find(cfg_path, filename)
        return path, None if scope == NAME else scope

    Config._get_cfg_path = staticmethod(find_without_mark)


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
