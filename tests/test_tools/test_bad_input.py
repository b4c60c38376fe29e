"""Bad input to the tools: one line, status 2, nothing written."""

import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
import torch

from mmrfa.openmmlab import package_of

from .tool_calls import REPO, TINY_SEG, error_of

BACKBONE = 'model.backbone.'


@pytest.fixture
def fails(call, capsys, tmp_path):
    """``fails(tool, ...)``: its error line; it must leave its folder alone."""
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    (work_dir / 'iter_6.pth').write_text('of an earlier run')
    (work_dir / TINY_SEG.name).write_text('of an earlier run')

    def run(tool: str, *arguments: object) -> str:
        status = call(tool, *arguments, '--work-dir', work_dir)
        line = error_of(status, capsys.readouterr().err)
        assert {p.name for p in work_dir.iterdir()} == {
            'iter_6.pth',
            TINY_SEG.name,
        }
        assert {p.read_text() for p in work_dir.iterdir()} == {
            'of an earlier run'
        }
        return line

    return run


@pytest.mark.parametrize(
    ('name', 'content', 'expected'),
    [
        ('none.py', None, 'expected a file, found none'),
        ('folder.py', 'mkdir', 'expected a file, found none'),
        ('config.txt', 'model = dict()', 'ends in .py'),
        ('bad.py', 'model = dict(', 'SyntaxError'),
        ('photo.py', b'\xff\xd8\xff\xe0\x00\x10JFIF', 'UnicodeDecodeError'),
        ('name.py', 'model = unknown', "name 'unknown' is not defined"),
        ('base.py', "_base_ = 'nowhere.py'", 'nowhere.py'),
        ('empty.py', 'a = 1', 'expected a model'),
        (
            'imports.py',
            "custom_imports = dict(imports=['no_such_module'])",
            "No module named 'no_such_module'",
        ),
    ],
)
def test_config_file(fails, tmp_path, name, content, expected) -> None:
    path = tmp_path / name
    if content == 'mkdir':
        path.mkdir()
    elif content is not None:
        path.write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    line = fails('train.py', path)
    assert str(path) in line
    assert expected in line


@pytest.mark.parametrize(
    ('option', 'expected'),
    [
        (
            BACKBONE + 'attention_conv.type=RFAConf',
            ['RFAConf', 'RFAConv, ', 'RFCBAMConv', 'AWConv'],
        ),
        (BACKBONE + 'depth=19', ['depth', '18, 34, 50', 'got 19']),
        (
            BACKBONE + 'stage_with_attention_conv=(True,True)',
            ['stage_with_attention_conv', '4 entries', '(True, True)'],
        ),
        (BACKBONE + 'type=RFAResNett', ['RFAResNett is not in the']),
        (BACKBONE + 'deph=18', ['deph']),
        (BACKBONE, ['KEY=VALUE']),
        (BACKBONE + 'depth=[(1,2', ['--cfg-options', 'Imbalanced brackets']),
        (
            BACKBONE + 'plugins=[dict(cfg=dict(type=1),stages=(1,1))]',
            ['--cfg-options', 'KEY.ENTRY=VALUE'],
        ),
        ('model=3', ['expected a model', 'got 3']),
        (
            'optim_wraper.optimizer.lr=1',
            ['got optim_wraper', 'did you mean optim_wrapper?'],
        ),
        ('zzz=1', ['got zzz, which is neither']),
        ('param_scheduler.7.type=a', ['--cfg-options', str(TINY_SEG)]),
    ],
)
def test_option(fails, option, expected) -> None:
    line = fails('train.py', TINY_SEG, '--cfg-options', option)
    for part in expected:
        assert part in line


def test_data_root_missing(fails, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv('MMRFA_DATA_ROOT', str(tmp_path / 'nothing'))
    line = fails('train.py', TINY_SEG)
    assert str(tmp_path / 'nothing') in line
    assert 'JPEGImages' in line
    assert 'MMRFA_DATA_ROOT' in line


def test_unreadable_image_in_a_worker(call, capfd, tmp_path, sample_root):
    root = tmp_path / 'data'
    shutil.copytree(sample_root, root)
    for image in (root / 'VOCdevkit/VOC2012/JPEGImages').iterdir():
        image.write_bytes(image.read_bytes()[:400])
    status = call(
        'train.py', TINY_SEG, '--work-dir', tmp_path / 'work',
        '--cfg-options', 'train_dataloader.num_workers=1',
        f'train_dataloader.dataset.data_root={root}/VOCdevkit/VOC2012',
    )  # fmt: skip
    line = error_of(status, capfd.readouterr().err)
    assert '/JPEGImages/sample_' in line
    assert 'truncated' in line


@pytest.mark.parametrize('way', ['test', 'resume'])
@pytest.mark.parametrize(
    ('damage', 'expected'),
    [
        ('missing', 'expected a file, found none'),
        ('truncated', 'truncated'),
        ('hostile', 'refused to run'),
        ('deeper', 'missing (first: backbone.layer1.2.conv1.weight)'),
        ('other shape', '(4, 32, 1, 1) instead of (4, 16, 1, 1)'),
    ],
)
def test_checkpoint(fails, trained, tmp_path, way, damage, expected) -> None:
    path = tmp_path / 'checkpoint.pth'
    options = []
    if damage == 'truncated':
        path.write_bytes((trained / 'iter_6.pth').read_bytes()[:100_000])
    elif damage == 'hostile':
        torch.save(dict(state_dict=Hostile(tmp_path / 'ran')), path)
    elif damage != 'missing':
        shutil.copy(trained / 'iter_6.pth', path)
        options = {
            'deeper': ['model.backbone.depth=34'],
            'other shape': ['model.decode_head.channels=16'],
        }[damage]
    options = ['--cfg-options', *options] if options else []
    if way == 'test':
        line = fails('test.py', TINY_SEG, path, *options)
    else:
        line = fails('train.py', TINY_SEG, '--resume', path, *options)
    assert str(path) in line
    assert expected in line
    assert not (tmp_path / 'ran').exists()


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_resume_needs_more_than_weights(fails, trained, tmp_path) -> None:
    path = tmp_path / 'weights.pth'
    content = torch.load(trained / 'iter_6.pth', weights_only=False)
    torch.save(dict(state_dict=content['state_dict']), path)
    line = fails('train.py', TINY_SEG, '--resume', path)
    assert 'lacks meta, message_hub, optimizer' in line


def test_pretrained_without_network(fails, monkeypatch, tmp_path) -> None:
    """The name cannot be resolved; found out before anything is written."""

    def no_network(*_, **__):
        raise socket.gaierror(-3, 'Temporary failure in name resolution')

    monkeypatch.setattr(socket, 'getaddrinfo', no_network)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    for variable in ('http_proxy', 'https_proxy', 'all_proxy'):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    line = fails(
        'train.py', TINY_SEG, '--cfg-options',
        BACKBONE + 'init_cfg.type=Pretrained',
        BACKBONE + 'init_cfg.checkpoint=open-mmlab://resnet18_v1c',
    )  # fmt: skip
    assert 'open-mmlab://resnet18_v1c: cannot be fetched' in line
    assert 'init_cfg=None' in line
    assert 'init_cfg.checkpoint=FILE' in line


def test_options_of_train(fails) -> None:
    if not torch.cuda.is_available():
        assert '--amp: expected a GPU' in fails('train.py', TINY_SEG, '--amp')
    line = fails(
        'train.py', TINY_SEG, '--auto-scale-lr',
        '--cfg-options', 'auto_scale_lr=None',
    )  # fmt: skip
    assert 'auto_scale_lr.base_batch_size' in line


def test_options_of_test(fails, trained) -> None:
    checkpoint = trained / 'iter_6.pth'
    line = fails('test.py', TINY_SEG, checkpoint, '--out', 'out.txt')
    assert '.pkl' in line
    assert 'out.txt' in line
    line = fails(
        'test.py', TINY_SEG, checkpoint, '--show-dir', 'pictures',
        '--cfg-options', 'default_scope=mmengine',
    )  # fmt: skip
    assert 'default_scope mmseg' in line


def test_pictures_without_a_display(fails, trained, monkeypatch) -> None:
    for name in 'DISPLAY', 'WAYLAND_DISPLAY':
        monkeypatch.delenv(name, raising=False)
    line = fails('test.py', TINY_SEG, trained / 'iter_6.pth', '--show')
    assert '--show: expected a display' in line


def test_outputs_of_test(fails, trained, tmp_path) -> None:
    """Before the test, not behind hours of it."""
    kept = tmp_path / 'net.pkl'
    kept.write_bytes((trained / 'iter_6.pth').read_bytes())
    (tmp_path / 'folder.pkl').mkdir()
    (tmp_path / 'link').symlink_to('nowhere')
    os.mkfifo(tmp_path / 'pipe.pkl')
    for option, name, expected in (
        ('--out', 'net.pkl', 'net.pkl: expected another file to write'),
        ('--out', 'folder.pkl', 'expected a file to write, got a folder'),
        ('--out', 'pipe.pkl', 'expected a file to write, got a pipe'),
        ('--out', 'net.pkl/a.pkl', 'net.pkl is not a folder'),
        ('--out', 'link/a.pkl', 'link is a dangling link'),
        ('--show-dir', 'net.pkl', 'net.pkl is not a folder'),
        ('--show-dir', 'link/a', 'link is a dangling link'),
    ):
        line = fails('test.py', TINY_SEG, kept, option, tmp_path / name)
        assert expected in line
    assert kept.read_bytes() == (trained / 'iter_6.pth').read_bytes()


def test_tta_needs_a_config_for_it(call, capsys, trained, tmp_path) -> None:
    text = TINY_SEG.read_text()
    config = tmp_path / 'no_tta.py'
    config.write_text(text.replace('tta_model =', 'other ='))
    status = call('test.py', config, trained / 'iter_6.pth', '--tta')
    line = error_of(status, capsys.readouterr().err)
    assert '--tta: expected tta_model in config' in line


def test_work_dir_is_a_file(call, capsys, tmp_path) -> None:
    path = tmp_path / 'file'
    path.write_text('mine')
    status = call('train.py', TINY_SEG, '--work-dir', path / 'below')
    assert 'is not a folder' in error_of(status, capsys.readouterr().err)
    assert path.read_text() == 'mine'


def test_detector_without_its_package(fails, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    monkeypatch.delitem(sys.modules, 'mmdet.models', raising=False)
    config = REPO / 'configs/faster_rcnn_rfa_r50_coco.py'
    expected = f'mmdet.models needs package {package_of("mmdet")}, which is'
    assert expected in fails('train.py', config)
