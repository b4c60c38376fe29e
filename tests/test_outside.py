"""mmrfa as people use it who never cloned it: a wheel in an environment."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[1]
CAMVID = 'deeplabv3plus/deeplabv3plus_r18-rfa-d16_1xb8-4k_camvid-256x256.py'
BCCD = 'faster_rcnn/faster-rcnn_r18-rfa_fpn_1xb4-36e_bccd.py'
CITYSCAPES = 'fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
# Small enough for a test: one iteration, one validation image.
SHORT = """
train_cfg = dict(max_iters=2, val_interval=2)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False,
                      dataset=dict(indices=2))
test_dataloader = dict(num_workers=0, persistent_workers=False,
                       dataset=dict(indices=2))
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
"""


@pytest.fixture(scope='module')
def clone(tmp_path_factory) -> Path:
    """What a build needs, where it may write."""
    target = tmp_path_factory.mktemp('clone')
    ignore = shutil.ignore_patterns('__pycache__', '.mim', '*.so')
    for name in 'mmrfa', 'configs', 'tools':
        shutil.copytree(REPO / name, target / name, ignore=ignore)
    files = 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'model-index.yml'
    texts = 'README.md', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff'
    for name in (*files, *texts):
        shutil.copy(REPO / name, target)
    # What setuptools takes by itself where it finds it.
    (target / 'tests').mkdir()
    shutil.copy(__file__, target / 'tests')
    return target


def build(clone: Path, kind: str, out: Path) -> Path:
    """Run the build backend as pip does, without network."""
    out.mkdir()
    call = f'build_{kind}({str(out)!r})'
    subprocess.run(
        [
            sys.executable,
            '-c',
            f'import setuptools.build_meta as backend; backend.{call}',
        ],
        cwd=clone,
        check=True,
        capture_output=True,
        # Compiling the kernels takes minutes and is tested elsewhere.
        env={**os.environ, 'PYTHONPATH': '', 'MMRFA_KERNELS': '0'},
    )
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope='module')
def sdist(clone, tmp_path_factory) -> Path:
    return build(clone, 'sdist', tmp_path_factory.mktemp('sdist') / 'out')


@pytest.fixture(scope='module')
def wheel(sdist, tmp_path_factory) -> Path:
    """Made from the archive of sources, as ``python -m build`` does."""
    place = tmp_path_factory.mktemp('wheel')
    shutil.unpack_archive(sdist, place)
    (sources,) = place.iterdir()
    return build(sources, 'wheel', place / 'out')


def test_the_sdist_holds_what_is_built_from(clone, sdist):
    with tarfile.open(sdist) as archive:
        names = {
            name.partition('/')[2]
            for name in archive.getnames()
            if '.egg-info' not in name
        }
    kept = {
        path.relative_to(clone).as_posix()
        for path in clone.rglob('*')
        if path.is_file()
        and path.suffix in ('.py', '.sh', '.cpp', '.h', '.inl', '.cff')
        and not {'build', '.mim', 'tests'} & set(path.relative_to(clone).parts)
    }
    assert len(kept) > 300 and kept <= names
    text = {'README.md', 'LICENSE', 'CHANGELOG.md', 'pyproject.toml'}
    assert text <= names
    top = {name.partition('/')[0] for name in names}
    assert not top & {'tests', 'docs', 'benchmarks', 'work_dirs', 'data'}


def test_the_wheel_ships_configs_and_asks_for_torch_only(clone, wheel):
    wheel = zipfile.ZipFile(wheel)
    names = set(wheel.namelist())
    configs = {
        path.relative_to(clone).as_posix()
        for path in (clone / 'configs').rglob('*.py')
    }
    assert {f'mmrfa/.mim/{name}' for name in configs} <= names
    assert 'mmrfa/.mim/tools/train.py' in names
    assert 'mmrfa/py.typed' in names
    (file,) = [n for n in names if n.endswith('entry_points.txt')]
    assert 'mmrfa = mmrfa.console:main' in wheel.read(file).decode()
    modules = {
        path.relative_to(clone).as_posix()
        for path in (clone / 'mmrfa').rglob('*.py')
        if '.mim' not in path.parts
    }
    assert modules <= names
    assert not [n for n in names if n.startswith(('tests', 'scripts'))]
    (file,) = [n for n in names if n.endswith('.dist-info/METADATA')]
    metadata = wheel.read(file).decode()
    # what a package index checks: a description, and how it is to be read
    assert 'Description-Content-Type: text/markdown\n' in metadata
    assert '\n\n# mmrfa\n' in metadata
    lines = metadata.splitlines()
    needs = [
        Requirement(line.removeprefix('Requires-Dist: '))
        for line in lines
        if line.startswith('Requires-Dist: ')
    ]
    assert [n.name for n in needs if not n.marker] == ['torch']
    assert 'torchvision' not in {n.name for n in needs}
    for extra in 'seg', 'det', 'cls':
        wanted = {n.name for n in needs if f'"{extra}"' in str(n.marker)}
        assert {'onedl-mmengine', 'onedl-mmcv'} < wanted
        assert all(name.startswith('onedl-') for name in wanted)


def test_an_editable_install_links_the_configs(clone, tmp_path):
    build(clone, 'editable', tmp_path / 'out')
    mim = clone / 'mmrfa/.mim'
    assert (mim / 'configs').resolve() == (clone / 'configs').resolve()
    assert (mim / 'tools').resolve() == (clone / 'tools').resolve()
    # And a second time, over the links of the first.
    build(clone, 'editable', tmp_path / 'again')
    assert (mim / 'configs').is_symlink() and (clone / 'configs').is_dir()


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory) -> Path:
    """An interpreter that has the stack, and mmrfa from its wheel alone."""
    venv = tmp_path_factory.mktemp('outside') / 'venv'
    subprocess.run(
        [sys.executable, '-m', 'venv', '--without-pip', venv], check=True
    )
    (site,) = venv.glob('lib/python*/site-packages')
    # What pip does with a wheel, but for its script.
    zipfile.ZipFile(wheel).extractall(site)
    # The rest of the stack, but not the editable install of this clone: its
    # hook lies in a .pth file, and those count in the first folder only.
    stack = Path(find_spec('mmengine').origin).parents[1]
    (site / 'stack.pth').write_text(f'{stack}\n')
    return venv / 'bin' / 'python'


def run(python, *arguments, cwd, **env) -> str:
    """Run a command outside of the clone; its output."""
    clean = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    result = subprocess.run(
        [str(a) for a in (python, *arguments)],
        cwd=cwd,
        env={**clean, **{k: str(v) for k, v in env.items()}},
        capture_output=True,
        text=True,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-3000:]
    return output


def test_the_command_finds_its_tools(python, tmp_path):
    code = 'import sys; from mmrfa.console import main; sys.exit(main())'
    sizes = '--num-train', 1, '--num-val', 1
    run(python, '-c', code, 'sample', 'data', *sizes, cwd=tmp_path)
    assert len(list((tmp_path / 'data').rglob('JPEGImages/*'))) == 2


def test_configs_by_name(python, tmp_path):
    """The hub, and a base in another folder, both without a clone."""
    (tmp_path / 'mine.py').write_text(
        f"_base_ = 'mmrfa::{CAMVID}'\nmodel = dict(backbone=dict(depth=34))\n"
    )
    code = f"""
        import mmrfa, mmrfa.models
        from mmengine.config import Config
        from mmengine.hub import get_config
        from mmengine.registry import MODELS, init_default_scope
        assert {str(REPO)!r} not in mmrfa.__file__, mmrfa.__file__
        hub = get_config('mmrfa::{CAMVID}')
        mine = Config.fromfile('mine.py')
        mine.model.backbone.depth = hub.model.backbone.depth
        assert mine.model.to_dict() == hub.model.to_dict()
        init_default_scope(mine.default_scope)
        net = MODELS.build(mine.model)
        assert type(net.backbone.layer1[0].conv1).__name__ == 'RFAConv'
        other = get_config('mmseg::{CITYSCAPES}')
        assert other.model.backbone.type == 'ResNetV1c'
    """
    run(python, '-c', dedent(code), cwd=tmp_path)


def test_mim_trains_tests_and_infers(python, tmp_path, data_root):
    """`mim train`, `mim test`, then MMSegInferencer, on CamVid."""
    data = data_root('camvid').parent
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = 'mmrfa::{CAMVID}'\n{SHORT}")
    mim = '-m', 'mim'
    run(
        python, *mim, 'train', 'mmrfa', config, '--work-dir', 'run',
        cwd=tmp_path, MMRFA_DATA_ROOT=data,
    )  # fmt: skip
    checkpoint = tmp_path / 'run' / 'iter_2.pth'
    output = run(
        python, *mim, 'test', 'mmrfa', config, '--checkpoint', checkpoint,
        cwd=tmp_path, MMRFA_DATA_ROOT=data,
    )  # fmt: skip
    assert 'mIoU' in output
    image = sorted((data / 'camvid' / 'JPEGImages').glob('*.jpg'))[0]
    code = f"""
        import mmrfa.models
        from mmseg.apis import MMSegInferencer
        infer = MMSegInferencer('mine.py', {str(checkpoint)!r}, device='cpu')
        found = infer({str(image)!r}, out_dir='pictures')
        assert found['predictions'].shape == (360, 480)
    """
    run(python, '-c', dedent(code), cwd=tmp_path, MMRFA_DATA_ROOT=data)
    assert list((tmp_path / 'pictures').rglob('*.png')) or list(
        (tmp_path / 'pictures').rglob('*.jpg')
    )


def test_det_inferencer(python, tmp_path, data_root):
    """With a checkpoint of random weights, on one image of BCCD."""
    if find_spec('mmcv._ext') is None:
        pytest.skip('mmdet needs the compiled operators of mmcv: make ops')
    data = data_root('bccd').parent
    image = sorted((data / 'bccd' / 'images').glob('*.jpg'))[0]
    code = f"""
        import torch, mmrfa.models
        from mmengine.hub import get_config
        from mmengine.registry import MODELS, init_default_scope
        config = get_config('mmrfa::{BCCD}')
        init_default_scope(config.default_scope)
        net = MODELS.build(config.model)
        meta = dict(dataset_meta=config.test_dataloader.dataset.metainfo)
        torch.save(dict(state_dict=net.state_dict(), meta=meta), 'net.pth')
        config.dump('mine.py')
        from mmdet.apis import DetInferencer
        infer = DetInferencer('mine.py', 'net.pth', device='cpu')
        found = infer({str(image)!r}, out_dir='out', no_save_pred=False)
        assert 'bboxes' in found['predictions'][0]
    """
    run(python, '-c', dedent(code), cwd=tmp_path, MMRFA_DATA_ROOT=data)
    assert list((tmp_path / 'out' / 'vis').iterdir())
