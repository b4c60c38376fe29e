"""Where images come from, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmrfa.deploy.sources import Source, names_of
from mmrfa.errors import InputError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    (folder / 'deeper').mkdir(parents=True)
    for name in ('b.jpg', 'a.PNG', 'a.jpg', '.c.jpg', 'deeper/b.jpg'):
        Image.new('RGB', (8, 6)).save(folder / name)
    (folder / 'notes.txt').write_text('no image')
    return folder


def names(text, **options) -> list[str]:
    return [frame.name for frame in Source(str(text), **options)]


def test_images_get_names_of_their_own(photos):
    assert names(photos) == ['a.PNG', 'a.jpg', 'b']
    assert names(photos / 'b.jpg') == ['b']
    found = names(photos / '**' / '*.jpg')
    assert found[0] == 'a' and len(set(found)) == 3
    assert found[1].endswith('_photos_b.jpg') and '/' not in found[1]
    for others in (
        ['a.jpg', 'a.png', 'a.jpg.png'],  # the last one without its ending
        ['a/b/x.jpg', 'a_b/x.jpg'],
        ['x_0.jpg', 'a/x.jpg', 'b/x.jpg'],
    ):
        found = names_of([Path('/p', other) for other in others])
        assert len(set(found)) == len(others), found
    source = Source(str(photos), limit=2)
    assert source.count == len(list(source)) == 2
    assert source.video is None


def test_a_video_gives_its_frames(tmp_path):
    path = tmp_path / 'clip.avi'
    code = cv2.VideoWriter_fourcc(*'MJPG')
    video = cv2.VideoWriter(str(path), code, 10, (32, 16))
    for grey in (0, 100, 200):
        video.write(np.full((16, 32, 3), grey, np.uint8))
    video.release()
    source = Source(str(path))
    assert (source.video, source.count, source.rate) == ('clip', 3, 10)
    frames = list(source)
    assert [f.name for f in frames] == [f'clip_00000{i}' for i in range(3)]
    greys = [frame.pixels.mean() for frame in frames]
    assert greys == pytest.approx([0, 100, 200], abs=3)
    assert frames[0].pixels.shape == (16, 32, 3)
    assert names(path, limit=1) == ['clip_000000']


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('empty', 'mkdir', r'expected images \(.bmp, .* found none'),
        ('none*.jpg', None, 'a pattern that images fit, .* found none'),
        ('none.mp4', None, 'a video or the index of a camera, found none'),
        ('notes.mp4', 'no video', 'expected an image or a video that OpenCV'),
    ],
)
def test_nothing_to_look_at(tmp_path, capfd, name, content, message):
    path = tmp_path / name
    if content == 'mkdir':
        path.mkdir()
    elif content:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        Source(str(path))
    assert str(path) in str(error.value)
    assert capfd.readouterr() == ('', '')  # OpenCV says nothing beside it


def test_no_camera(capfd):
    with pytest.raises(InputError, match='input 97: expected a camera'):
        Source('97')
    assert capfd.readouterr() == ('', '')
