"""docs/own-data.md, from photographs to a result, as it is written."""

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mmrfa.engine.config import import_scope, load_config
from mmrfa.engine.run import build_model

from .tool_calls import REPO

PAGE = (REPO / 'docs/own-data.md').read_text()
LISTS, SEG, DET, YOLO, CLS = re.findall(
    r'^```python\n(.*?)^```', PAGE, re.M | re.S
)
(COMMANDS,) = re.findall(r'^```bash\n(.*?)^```', PAGE, re.M | re.S)
# What is written for an hour, done in seconds.
SHORT = (
    '--cfg-options',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=2',
    'train_dataloader.dataset.pipeline.4.crop_size=(64, 64)',
    'model.data_preprocessor.size=(64, 64)',
    'model.backbone.base_channels=8',
    'model.backbone.stem_channels=8',
    'model.decode_head.in_channels=64',
    'model.decode_head.c1_in_channels=8',
    'model.auxiliary_head.in_channels=32',
    *(
        option
        for loader in ('train', 'val', 'test')
        for option in (
            f'{loader}_dataloader.num_workers=0',
            f'{loader}_dataloader.persistent_workers=False',
            f'{loader}_dataloader.batch_size=2',
        )
    ),
)


@pytest.fixture
def mine(sample_root, tmp_path, monkeypatch):
    """Six photographs, with masks in colours, in ``data/mine``."""
    monkeypatch.chdir(tmp_path)
    voc = sample_root / 'VOCdevkit/VOC2012'
    folder = tmp_path / 'data/mine'
    for name, suffix in ('JPEGImages', 'jpg'), ('SegmentationClass', 'png'):
        (folder / name).mkdir(parents=True)
        for file in sorted((voc / name).glob(f'*.{suffix}'))[:6]:
            shutil.copy(file, folder / name)
    return folder


def write_config(code: str, path: Path) -> None:
    """Where the page puts it, the base in the repository."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(code.replace("'./", f"'{REPO}/configs/"))


def test_from_photographs_to_a_result(call, mine, tmp_path, capsys):
    masks = sorted((mine / 'SegmentationClass').iterdir())
    before = [_labels(file) for file in masks]
    for _ in range(2):  # again when there are more photographs
        exec(compile(LISTS, 'own-data', 'exec'), {})
    assert [_labels(file) for file in masks] == before
    lists = mine / 'ImageSets/Segmentation'
    train, val = (
        (lists / f'{name}.txt').read_text().split()
        for name in ('train', 'val')
    )
    assert (len(train), len(val)) == (5, 1) and not set(train) & set(val)

    small = SEG.replace('(480, 360)', '(96, 96)')
    write_config(small, tmp_path / 'configs/mine.py')
    for line in COMMANDS.replace('4000', '2').splitlines():
        tool, *arguments = line.removeprefix('python tools/').split()
        short = SHORT if 'configs/mine.py' in arguments else ()
        assert call(tool, *arguments, *short) == 0, line
    assert 'suspicious: 0' in capsys.readouterr().out
    assert len(os.listdir('work_dirs/mine/predicted/masks')) == 6


def _labels(file: Path) -> bytes:
    return Image.open(file).tobytes()


def test_detection_and_classification(tmp_path):
    write_config(DET, tmp_path / 'det.py')
    config = load_config(str(tmp_path / 'det.py'))
    for loader in config.train_dataloader, config.val_dataloader:
        assert loader.dataset.metainfo == dict(classes=config.classes)
        assert loader.dataset.data_root == 'data/mine/'
    head = config.model.roi_head.bbox_head
    assert head.num_classes == len(config.classes)
    assert config.val_evaluator.ann_file == 'data/mine/annotations/val.json'

    *rest, _ = DET.splitlines(keepends=True)
    base = 'yolov8/yolov8_n-rfa_1xb8-40e_bccd.py'
    text = ''.join(rest).replace(
        'faster_rcnn/faster-rcnn_r18-rfa_fpn_1xb4-36e_bccd.py', base
    )
    assert base in text
    four = text.replace("'kite')", "'kite', 'sun')") + YOLO
    write_config(four, tmp_path / 'yolo.py')
    config = load_config(str(tmp_path / 'yolo.py'))
    import_scope(config)
    model = build_model(config)
    assert model.bbox_head.num_classes == model.bbox_head.assigner.num_classes
    assert model.bbox_head.num_classes == 4
    assert config.train_dataloader.dataset.data_root == 'data/mine/'

    write_config(CLS, tmp_path / 'cls.py')
    config = load_config(str(tmp_path / 'cls.py'))
    roots = {
        config[f'{name}_dataloader'].dataset.data_root
        for name in ('train', 'val', 'test')
    }
    assert roots == {'data/mine'} and config.model.head.num_classes == 3
