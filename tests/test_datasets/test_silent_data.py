"""Data that would be read, but not as they are meant, stop a run."""

import os

import numpy as np
import pytest
from PIL import Image

from mmrfa.datasets import CheckedBackend, CheckMask, check_data_roots
from mmrfa.datasets.inspection import look_at_image
from mmrfa.errors import InputError


@pytest.fixture
def check(tmp_path):
    """``check(mask, orientation)``: run CheckMask on files of these."""

    def run(mask: np.ndarray, orientation: int | None = None) -> None:
        image, path = tmp_path / 'a.jpg', tmp_path / 'a.png'
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        Image.new('RGB', mask.shape[::-1]).save(image, exif=exif)
        Image.fromarray(mask).save(path)
        CheckMask(num_classes=4).transform(
            dict(
                gt_seg_map=mask.astype(np.uint8),  # as mmseg casts it
                seg_map_path=str(path),
                img_path=str(image),
                ori_shape=mask.shape,
            )
        )

    return run


def test_masks_of_sixteen_bits(check) -> None:
    mask = np.full((4, 6), 3, np.uint16)
    check(mask)
    with pytest.raises(InputError, match='a.png: .*8 bits.* got 259'):
        check(mask + 256)


def test_images_that_decoders_turn(check) -> None:
    mask = np.zeros((4, 6), np.uint8)
    check(mask)
    check(mask, 1)
    for orientation in (2, 3, 6, 8):
        expected = f'a.jpg: .*EXIF orientation {orientation}'
        with pytest.raises(InputError, match=expected):
            check(mask, orientation)


def damaged(whole: bytes) -> dict[str, bytes]:
    """JPEGs that decode, but not as they were."""
    middle = len(whole) // 2
    hole = whole[:middle] + bytes(300) + whole[middle + 300 :]
    return dict(half=whole[:middle] + b'\xff\xd9', hole=hole)


@pytest.mark.parametrize('kind', ['half', 'hole'])
def test_what_only_the_decoder_notices(tmp_path, capfd, kind) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = tmp_path / 'a.jpg'
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    strict = CheckedBackend(strict=True)
    assert strict.get(str(path)) == whole
    assert look_at_image(str(path))[1] == []
    path.write_bytes(damaged(whole)[kind])
    CheckedBackend().get(str(path))  # as documented
    with pytest.raises(InputError, match='a.jpg: .*the decoder says: Corrupt'):
        strict.get(str(path))
    assert 'Corrupt' in look_at_image(str(path))[1][0]
    assert capfd.readouterr().err == ''


def test_pipes_and_folders_are_no_images(tmp_path) -> None:
    """Reading a pipe would wait for ever."""
    os.mkfifo(tmp_path / 'pipe')
    for path in tmp_path / 'pipe', tmp_path:
        with pytest.raises(InputError, match='got a folder, pipe or device'):
            CheckedBackend().get(str(path))


def test_folder_in_the_place_of_a_list(tmp_path) -> None:
    """Every image would be trained on."""
    (tmp_path / 'splits').mkdir()
    (tmp_path / 'list.txt').write_text('a')
    dataset = dict(data_root=str(tmp_path), ann_file='list.txt')
    check_data_roots(dict(train_dataloader=dict(dataset=dataset)))
    dataset['ann_file'] = 'splits'
    with pytest.raises(InputError, match='file as ann_file, got the folder'):
        check_data_roots(dict(train_dataloader=dict(dataset=dataset)))
