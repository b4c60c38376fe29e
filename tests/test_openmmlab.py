"""Which OpenMMLab packages are there, and is that a working set."""

import sys
from importlib import metadata

import pytest

from mmrfa import openmmlab
from mmrfa.errors import InputError

FORK = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmsegmentation': '1.4.2',
    'onedl-mmdetection': '3.5.1',
}
ORIGINAL = {
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmsegmentation': '1.2.2',
    'mmdet': '3.3.0',
}


def check(monkeypatch, installed, operators=True):
    monkeypatch.setattr(openmmlab, '_installed', installed.get)
    monkeypatch.setattr(openmmlab, '_has_operators', lambda: operators)
    openmmlab.check_distribution()


@pytest.mark.parametrize('packages', [FORK, ORIGINAL], ids=['fork', 'orig'])
def test_each_distribution_is_fine(monkeypatch, packages, recwarn):
    check(monkeypatch, packages)
    check(monkeypatch, {k: v for k, v in packages.items() if 'det' not in k})
    assert not recwarn


def test_what_is_really_installed():
    openmmlab.check_distribution()


@pytest.mark.parametrize(
    ('installed', 'message'),
    [
        ({}, 'package onedl-mmengine .module mmengine. is not installed'),
        (FORK | {'onedl-mmcv': None}, 'onedl-mmcv .module mmcv. is not'),
        (ORIGINAL | {'mmsegmentation': None}, 'package mmsegmentation'),
        (FORK | {'mmcv': '2.1.0'}, 'got both onedl-.* and mmcv; uninst'),
        (
            FORK | {'onedl-mmsegmentation': '1.3.0'},
            'expected onedl-mmsegmentation.*>=1.4.2.*, got 1.3.0',
        ),
        # A candidate comes before its release.
        (FORK | {'onedl-mmcv': '2.3.6rc1'}, 'expected onedl-mmcv.*2.3.6rc1'),
        (ORIGINAL | {'mmcv': '2.0.1'}, 'expected mmcv>=2.1.0,<2.2'),
    ],
    ids=str,
)
def test_broken_sets(monkeypatch, installed, message):
    with pytest.raises(ImportError, match=message) as error:
        check(monkeypatch, installed)
    assert '\n' not in str(error.value)
    assert 'install' in str(error.value).rpartition(';')[2]


def test_the_original_mmseg_needs_operators(monkeypatch):
    check(monkeypatch, FORK, operators=False)
    with pytest.raises(ImportError, match='needs the compiled.*mmcv==2.1.0'):
        check(monkeypatch, ORIGINAL, operators=False)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    assert not openmmlab._has_operators()


@pytest.mark.parametrize(
    'newer', [{'onedl-mmengine': '0.11.0'}, {'onedl-mmcv': '2.4rc1'}]
)
def test_newer_versions_only_warn(monkeypatch, newer):
    ((_, version),) = newer.items()
    with pytest.warns(UserWarning, match=f'; {version} is installed'):
        check(monkeypatch, FORK | newer)


def test_without_metadata_of_our_own(monkeypatch, recwarn):
    """A copy of the package on the path: it knows no ranges, but names."""

    def none(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, 'requires', none)
    check(monkeypatch, FORK)
    assert not recwarn
    with pytest.raises(ImportError, match='pip install "onedl-mmcv"'):
        check(monkeypatch, FORK | {'onedl-mmcv': None})


@pytest.mark.parametrize('packages,which', [(FORK, 0), (ORIGINAL, 1)])
def test_advice_stays_in_the_distribution(monkeypatch, packages, which):
    monkeypatch.setattr(openmmlab, '_installed', packages.get)
    for names in (
        ('onedl-mmpretrain', 'mmpretrain'),
        ('onedl-mmdetection', 'mmdet'),
    ):
        assert openmmlab.package_of(names[1]) == names[which]
        monkeypatch.setitem(sys.modules, names[1], None)
        monkeypatch.delitem(sys.modules, f'{names[1]}.models', raising=False)
        with pytest.raises(InputError, match=f'pip install {names[which]}$'):
            openmmlab.import_package(f'{names[1]}.models')
    assert openmmlab.package_of('other') == 'other'


def test_other_imports_are_named(monkeypatch, tmp_path):
    (tmp_path / 'ops_user.py').write_text('import mmcv._ext\n')
    (tmp_path / 'needy.py').write_text('import no_such_thing\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    with pytest.raises(InputError, match='^ops_user needs the .*`make ops`'):
        openmmlab.import_package('ops_user')
    with pytest.raises(InputError, match='^cannot import needy: .*no_such_t'):
        openmmlab.import_package('needy')
    with pytest.raises(InputError, match='pip install no_such_thing$'):
        openmmlab.import_package('no_such_thing.part')
