"""mmyolo, which has the detectors of the RFAConv paper; configs import this.

Nothing else does: mmyolo is optional, and under GPL-3.0. Its version 0.6.0
works with the versions of mmcv that mmrfa takes, but refuses them by their
number, so the number is another one while it is imported.
"""

import mmcv

from mmrfa.openmmlab import import_package

ACCEPTED = '2.0.1'  # the last one before 2.1


def _import() -> None:
    installed, mmcv.__version__ = mmcv.__version__, ACCEPTED
    try:
        import_package('mmyolo')
    finally:
        mmcv.__version__ = installed
    for part in ('models', 'datasets', 'engine'):  # they register
        import_package(f'mmyolo.{part}')


_import()
