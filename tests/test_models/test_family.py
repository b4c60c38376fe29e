"""Which OpenMMLab packages are there, and is that a working set."""

import sys

import pytest

from mmrfa.models import family

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
    monkeypatch.setattr(family, '_installed', installed.get)
    monkeypatch.setattr(family, '_has_operators', lambda: operators)
    family.check_family()


@pytest.mark.parametrize('packages', [FORK, ORIGINAL], ids=['fork', 'orig'])
def test_each_family_is_fine(monkeypatch, packages, recwarn):
    check(monkeypatch, packages)
    check(monkeypatch, {k: v for k, v in packages.items() if 'det' not in k})
    assert not recwarn


def test_what_is_really_installed():
    family.check_family()


@pytest.mark.parametrize(
    ('installed', 'message'),
    [
        ({}, 'package onedl-mmengine .module mmengine. is not installed'),
        (FORK | {'onedl-mmcv': None}, 'onedl-mmcv .module mmcv. is not'),
        (ORIGINAL | {'mmsegmentation': None}, 'package mmsegmentation'),
        (FORK | {'mmcv': '2.1.0'}, 'got both onedl-mmcv.* and mmcv; uninst'),
        (
            FORK | {'onedl-mmsegmentation': '1.3.0'},
            'expected onedl-mmsegmentation >= 1.4.2, < 1.5, got 1.3.0',
        ),
        (ORIGINAL | {'mmcv': '2.0.1'}, 'expected mmcv >= 2.1.0, < 2.2'),
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
    with pytest.raises(ImportError, match='needs the compiled operators'):
        check(monkeypatch, ORIGINAL, operators=False)
    monkeypatch.undo()
    assert family._has_operators()
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)
    assert not family._has_operators()


def test_newer_versions_only_warn(monkeypatch):
    with pytest.warns(UserWarning, match='< 0.11; 0.11.0 is installed'):
        check(monkeypatch, FORK | {'onedl-mmengine': '0.11.0'})


@pytest.mark.parametrize('packages,which', [(FORK, 0), (ORIGINAL, 1)])
def test_advice_stays_in_the_family(monkeypatch, packages, which):
    monkeypatch.setattr(family, '_installed', packages.get)
    for names in (
        ('onedl-mmpretrain', 'mmpretrain'),
        ('onedl-mmdetection', 'mmdet'),
    ):
        assert family.package_of(names[1]) == names[which]
    assert family.package_of('other') == 'other'
