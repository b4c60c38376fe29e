"""Data sets load with the configs' own pipelines; bad data say so."""

import copy
import importlib.util
import io
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from mmrfa.datasets import (
    CamVidDataset,
    CheckedBackend,
    check_data_roots,
    check_images,
)
from mmrfa.engine.cli import user_message
from mmrfa.errors import InputError

CONFIGS = Path(__file__).parents[2] / 'configs'
CAMVID = 'deeplabv3plus/deeplabv3plus_r18-d16_1xb8-4k_camvid-256x256.py'
BCCD = 'faster_rcnn/faster-rcnn_r18_fpn_1xb4-36e_bccd.py'
VOC0712 = 'faster_rcnn/faster-rcnn_r50_fpn_1x_voc0712.py'
VOC = 'deeplabv3plus_rfa_r50_voc.py'
COCO = 'faster_rcnn_rfa_r50_coco.py'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')

detection = pytest.mark.skipif(
    importlib.util.find_spec('mmcv._ext') is None
    and os.environ.get('MMRFA_REQUIRE_KERNELS') != '1',
    reason='detection needs the compiled mmcv operators',
)


@pytest.fixture
def load(monkeypatch):
    """Load a config whose data lie below a folder."""

    def load(name: str, root: Path) -> Config:
        monkeypatch.setenv('MMRFA_DATA_ROOT', str(root))
        return Config.fromfile(CONFIGS / name)

    return load


def build(cfg: Config, loader: str, pipeline: list | None = None):
    dataset = cfg[loader].dataset
    if pipeline is not None:
        dataset.pipeline = pipeline
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
        return registry.build(dataset)


def pictures(cfg: Config) -> dict:
    """The first item of each loader, and what `--tta` makes of it."""
    check_data_roots(cfg)
    items = {loader: build(cfg, loader)[0] for loader in LOADERS}
    tta = build(cfg, 'test_dataloader', cfg.tta_pipeline)[0]
    assert len(tta['inputs']) == len(tta['data_samples'])
    # each size twice, as it is and mirrored
    assert len({tuple(image.shape) for image in tta['inputs']}) > 1
    flips = [sample.flip for sample in tta['data_samples']]
    assert sum(flips) * 2 == len(flips) > 2
    return items


def test_camvid(load, data_root):
    folder = data_root('camvid')
    cfg = load(CAMVID, folder.parent)
    sizes = [len(build(cfg, loader)) for loader in LOADERS]
    assert sizes == [367, 101, 233]
    items = pictures(cfg)
    train = items['train_dataloader']
    assert train['inputs'].shape == (3, 256, 256)
    assert train['data_samples'].gt_sem_seg.data.shape == (1, 256, 256)
    val = items['val_dataloader']
    assert val['inputs'].shape == (3, 360, 480)
    labels = set(val['data_samples'].gt_sem_seg.data.unique().tolist())
    assert labels <= {*range(11), 255} and len(labels) > 5


def test_camvid_names_and_colours_are_those_of_the_data(data_root):
    folder = data_root('camvid')
    meta = CamVidDataset.METAINFO
    assert list(meta['classes']) == (
        (folder / 'classes.txt').read_text().split()
    )
    mask = next((folder / 'SegmentationClass').glob('*.png'))
    palette = np.reshape(Image.open(mask).getpalette()[: 11 * 3], (11, 3))
    assert palette.tolist() == meta['palette']


def test_class_weights_of_camvid(load, data_root):
    """By the shares of the classes in the masks of `train`."""
    name = 'deeplabv3plus_r18-d16_1xb8-1k_camvidhalf-128x128.py'
    cfg = load(f'deeplabv3plus/{name}', data_root('camvid').parent)
    masks = build(cfg, 'train_dataloader', [dict(type='LoadAnnotations')])
    counts = sum(
        np.bincount(masks[i]['gt_seg_map'].ravel(), minlength=256)[:11]
        for i in range(len(masks))
    )
    shares = counts / counts.sum()
    weights = 1 / np.log(1.02 + shares)
    weights /= (shares * weights).sum()
    given = cfg.model.decode_head.loss_decode.class_weight
    assert np.allclose(given, weights, atol=0.006)


@detection
def test_bccd(load, data_root):
    cfg = load(BCCD, data_root('bccd').parent)
    classes = ('RBC', 'WBC', 'Platelets')
    expected = {
        'train_dataloader': (205, [2381, 214, 209]),
        'val_dataloader': (87, [967, 87, 83]),
        'test_dataloader': (72, [805, 71, 69]),
    }
    for loader, (images, boxes) in expected.items():
        dataset = build(cfg, loader)
        assert dataset.metainfo['classes'] == classes
        assert len(dataset) == images
        found = [
            instance['bbox_label']
            for index in range(images)
            for instance in dataset.get_data_info(index)['instances']
        ]
        assert np.bincount(found).tolist() == boxes
    val = pictures(cfg)['val_dataloader']
    assert val['inputs'].shape == (3, 480, 640)


def test_voc_on_the_sample(load, sample_root):
    items = pictures(load(VOC, sample_root))
    train = items['train_dataloader']
    assert train['inputs'].shape == (3, 512, 512)
    val = items['val_dataloader']['data_samples']
    assert val.img_shape == (512, 512)  # resized for the network
    assert val.gt_sem_seg.shape == (96, 96)  # scored at its own size


@detection
def test_coco_on_the_sample(load, sample_root):
    items = pictures(load(COCO, sample_root))
    train = items['train_dataloader']['data_samples'].gt_instances
    assert len(train.bboxes) == len(train.labels) > 0
    # COCO's numbers of sports ball, kite and book
    assert set(train.labels.tolist()) <= {32, 33, 73}


@detection
def test_voc0712(load, tmp_path):
    for year in ('VOC2007', 'VOC2012'):
        folder = tmp_path / 'VOCdevkit' / year
        for name in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
            (folder / name).mkdir(parents=True)
        Image.new('RGB', (100, 60)).save(folder / 'JPEGImages/a.jpg')
        (folder / 'Annotations/a.xml').write_text(
            '<annotation><size><width>100</width><height>60</height></size>'
            '<object><name>dog</name><difficult>0</difficult><bndbox>'
            '<xmin>11</xmin><ymin>6</ymin><xmax>61</xmax><ymax>56</ymax>'
            '</bndbox></object></annotation>'
        )
        for split in ('trainval', 'test'):
            (folder / f'ImageSets/Main/{split}.txt').write_text('a\n')
    cfg = load(VOC0712, tmp_path)
    assert len(build(cfg, 'train_dataloader')) == 2 * 3
    items = pictures(cfg)
    train = items['train_dataloader']
    assert train['inputs'].shape == (3, 600, 1000)
    assert train['data_samples'].gt_instances.labels.tolist() == [11]
    val = items['val_dataloader']['data_samples'].gt_instances
    assert val.bboxes.tensor.tolist() == [[10, 5, 60, 55]]


@pytest.fixture
def camvid_of_one(tmp_path):
    """A folder in CamVid's layout with one image, to be damaged."""
    folder = tmp_path / 'camvid'
    for name in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (folder / name).mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(folder / 'JPEGImages/a.jpg')
    write_mask(folder, np.full((40, 60), 10))
    for split in ('train', 'val', 'test'):
        (folder / f'ImageSets/Segmentation/{split}.txt').write_text('a\n')
    return folder


def write_mask(folder: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask.astype(np.uint8))
    image.save(folder / 'SegmentationClass/a.png')


def error_of(cfg: Config, loader: str) -> str:
    with pytest.raises(InputError) as info:
        build(cfg, loader)[0]
    message = str(info.value)
    assert '\n' not in message
    return message


def test_good_data_pass(load, camvid_of_one):
    write_mask(camvid_of_one, np.arange(2400).reshape(40, 60) % 11)
    cfg = load(CAMVID, camvid_of_one.parent)
    for loader in LOADERS:
        build(cfg, loader)[0]
    write_mask(camvid_of_one, np.full((40, 60), 255))
    build(cfg, 'val_dataloader')[0]


@pytest.mark.parametrize('loader', LOADERS)
def test_mask_of_another_size(load, camvid_of_one, loader):
    write_mask(camvid_of_one, np.zeros((40, 50)))
    message = error_of(load(CAMVID, camvid_of_one.parent), loader)
    assert 'SegmentationClass/a.png' in message
    assert 'JPEGImages/a.jpg' in message
    assert '40x60' in message and 'got 40x50' in message


@pytest.mark.parametrize('loader', LOADERS)
@pytest.mark.parametrize('label', [11, 254])
def test_label_outside_the_classes(load, camvid_of_one, loader, label):
    mask = np.zeros((40, 60))
    mask[39, 59] = label
    write_mask(camvid_of_one, mask)
    message = error_of(load(CAMVID, camvid_of_one.parent), loader)
    assert 'SegmentationClass/a.png' in message
    assert '11 classes' in message and message.endswith(f'got {label}')


def test_mask_of_colours(load, camvid_of_one):
    write_mask(camvid_of_one, np.zeros((40, 60, 3)))
    message = error_of(load(CAMVID, camvid_of_one.parent), 'val_dataloader')
    assert 'a.png' in message and 'got 3 channels' in message


def save(path: Path, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(path).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize('loader', LOADERS)
@pytest.mark.parametrize(
    'file', ['JPEGImages/a.jpg', 'SegmentationClass/a.png']
)
@pytest.mark.parametrize('damage', ['empty', 'text', 'half', 'header', 'gone'])
def test_unreadable_image(load, camvid_of_one, loader, file, damage):
    path = camvid_of_one / file
    content = path.read_bytes()
    if damage == 'gone':
        path.unlink()
    else:
        path.write_bytes(
            {
                'empty': b'',
                'text': b'404 not found',
                'half': content[: len(content) // 2],
                'header': content[:30],
            }[damage]
        )
    message = error_of(load(CAMVID, camvid_of_one.parent), loader)
    assert message.startswith(f'{path}: expected an image, got')


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'TIFF', 'WEBP'])
def test_other_formats_are_images_too(load, camvid_of_one, kind):
    path = camvid_of_one / 'JPEGImages/a.jpg'
    path.write_bytes(save(path, kind))
    cfg = load(CAMVID, camvid_of_one.parent)
    assert build(cfg, 'val_dataloader')[0]['inputs'].shape == (3, 320, 480)


def test_jpeg_with_bytes_behind_its_end(load, camvid_of_one):
    path = camvid_of_one / 'JPEGImages/a.jpg'
    path.write_bytes(path.read_bytes() + bytes(100))
    cfg = load(CAMVID, camvid_of_one.parent)
    assert build(cfg, 'val_dataloader')[0]['inputs'].shape == (3, 320, 480)


@detection
def test_unreadable_image_in_detection(load, sample_root, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(sample_root / 'coco', root / 'coco')
    cfg = load(COCO, root)
    path = Path(build(cfg, 'val_dataloader').get_data_info(0)['img_path'])
    path.write_bytes(path.read_bytes()[:500])
    message = error_of(cfg, 'val_dataloader')
    assert message.startswith(f'{path}: expected an image, got')


def test_error_in_a_worker_is_one_line(load, camvid_of_one):
    write_mask(camvid_of_one, np.zeros((40, 50)))
    cfg = load(CAMVID, camvid_of_one.parent)
    loader = DataLoader(
        build(cfg, 'val_dataloader'), num_workers=1, collate_fn=list
    )
    with pytest.raises(InputError) as info:
        next(iter(loader))
    line = user_message(info.value)
    assert line == error_of(cfg, 'val_dataloader')


def test_pipeline_without_annotations(load, camvid_of_one):
    """What the inference tools make of the test pipeline."""
    cfg = load(CAMVID, camvid_of_one.parent)
    shutil.rmtree(camvid_of_one / 'SegmentationClass')
    pipeline = [t for t in cfg.test_pipeline if t.type != 'LoadAnnotations']
    assert len(pipeline) == len(cfg.test_pipeline) - 1
    item = build(cfg, 'val_dataloader', pipeline)[0]
    assert item['inputs'].shape == (3, 320, 480)


def image_steps(node: object) -> list[dict]:
    """All steps that read an image, also inside of others."""
    if isinstance(node, dict):
        here = [node] if node.get('type') == 'LoadImageFromFile' else []
        return here + image_steps(list(node.values()))
    if isinstance(node, list | tuple):
        return [step for child in node for step in image_steps(child)]
    return []


@pytest.mark.parametrize(
    'name',
    [
        VOC, COCO, CAMVID, BCCD, VOC0712,
        'yolov5/yolov5_n_1xb8-40e_bccd.py',
        'yolov5/yolov5_n_8xb16-300e_coco.py',
        'yolov7/yolov7_tiny_8xb16-300e_voc0712.py',
        'yolov8/yolov8_n_8xb16-500e_voc0712.py',
    ],
)  # fmt: skip
def test_images_are_read_with_the_check(load, tmp_path, name, request):
    if name.startswith('yolo'):
        request.getfixturevalue('mmyolo')
    cfg = load(name, tmp_path)
    check_images(cfg)
    steps = image_steps([cfg[loader] for loader in LOADERS])
    steps += image_steps(cfg.get('custom_hooks'))
    assert len(steps) >= 3
    for step in steps:
        assert step.backend_args == dict(backend='checked')


def test_what_a_config_says_about_reading_stays(tmp_path):
    own = [
        dict(type='LoadImageFromFile', backend_args=dict(backend='petrel')),
        dict(type='LoadImageFromFile', imdecode_backend='tifffile'),
        dict(type='LoadImageFromFile', file_client_args=dict(backend='disk')),
    ]
    loader = dict(dataset=dict(pipeline=copy.deepcopy(own)))
    check_images(dict(train_dataloader=loader))
    assert loader['dataset']['pipeline'] == own


def test_formats_that_pillow_does_not_know(tmp_path):
    """They are left to OpenCV, and refused where it cannot read them."""
    path = tmp_path / 'a.hdr'
    cv2.imwrite(str(path), np.ones((4, 6, 3), np.float32))
    whole = path.read_bytes()
    assert CheckedBackend().get(str(path)) == whole
    path.write_bytes(whole[:20])
    with pytest.raises(InputError, match='a.hdr: expected an image, got a da'):
        CheckedBackend().get(str(path))


@pytest.mark.parametrize('name', [VOC, COCO, CAMVID, BCCD, VOC0712])
def test_missing_data_root(load, tmp_path, name):
    cfg = load(name, tmp_path)
    with pytest.raises(InputError) as info:
        check_data_roots(cfg)
    message = str(info.value)
    assert '\n' not in message
    assert message.startswith(f'train_dataloader: expected data at {tmp_path}')
    assert f'MMRFA_DATA_ROOT (now {str(tmp_path)!r}) must hold' in message
    assert 'train' in message.rpartition('must hold')[2]


def test_missing_part_is_named(load, sample_root, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(sample_root, root)
    check_data_roots(load(VOC, root))
    check_data_roots(load(COCO, root))
    missing = [
        (VOC, 'VOCdevkit/VOC2012/SegmentationClassAug', 'train_dataloader'),
        (VOC, 'VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt', 'val_data'),
        (COCO, 'coco/annotations/instances_val2017.json', 'val_dataloader'),
    ]
    for name, part, loader in missing:
        (root / part).rename(root / 'away')
        with pytest.raises(InputError, match=f'^{loader}.*{root / part},'):
            check_data_roots(load(name, root))
        (root / 'away').rename(root / part)


def test_only_the_loaders_in_use_are_looked_at(load, camvid_of_one):
    cfg = load(CAMVID, camvid_of_one.parent)
    (camvid_of_one / 'ImageSets/Segmentation/train.txt').unlink()
    check_data_roots(cfg, ['test_dataloader'])
    with pytest.raises(InputError, match='train.txt'):
        check_data_roots(cfg)


def test_data_outside_the_data_root(load, tmp_path):
    cfg = load(CAMVID, tmp_path / 'else')
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'mine')
    with pytest.raises(InputError) as info:
        check_data_roots(cfg)
    assert f'expected data at {tmp_path / "mine"}' in str(info.value)
    assert 'MMRFA_DATA_ROOT' not in str(info.value)
    cfg.train_dataloader.dataset.data_root = 's3://bucket/camvid'
    check_data_roots(cfg, ['train_dataloader'])
