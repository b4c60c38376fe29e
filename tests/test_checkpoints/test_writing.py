"""A checkpoint is written whole or not at all."""

import pytest
import torch

from mmrfa.checkpoints import writing
from mmrfa.errors import InputError


def test_a_full_disk_leaves_the_target_alone(tmp_path, monkeypatch):
    def fail(content, stream):
        stream.write(b'half')
        raise OSError(28, 'No space left on device')

    target = tmp_path / 'target.pth'
    target.write_text('kept')
    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(OSError, match='No space'):
        writing.save({}, target)
    assert [path.name for path in tmp_path.iterdir()] == ['target.pth']
    assert target.read_text() == 'kept'


def test_folders_are_made(tmp_path):
    target = tmp_path / 'a/b/c.pth'
    writing.check_target(tmp_path / 'source.pth', target)
    writing.save(dict(a=torch.ones(2)), target)
    assert torch.load(target, weights_only=True)['a'].tolist() == [1, 1]


def test_bad_targets_are_named(tmp_path):
    source = tmp_path / 'source.pth'
    source.touch()
    (tmp_path / 'link.pth').symlink_to(source)
    for target, message in (
        (source, 'another file to write'),
        (tmp_path / 'link.pth', 'another file to write'),
        (tmp_path, 'expected a file to write, got a folder'),
        (source / 'a' / 'b.pth', 'source.pth is not a folder'),
    ):
        with pytest.raises(InputError, match=message):
            writing.check_target(source, target)


@pytest.mark.parametrize('way', [writing.written_aside, writing.folder_aside])
def test_files_are_whole_or_not_there(way, tmp_path):
    target = tmp_path / 'new' / 'file.txt'

    def write(place, text):
        place = place / 'file.txt' if place.is_dir() else place
        assert place.suffix == '.txt'
        place.write_text(text)

    with way(target) as place:
        write(place, 'first')
    with pytest.raises(OSError, match='full'), way(target) as place:
        write(place, 'second')
        assert target.read_text() == 'first'
        raise OSError('full')
    assert target.read_text() == 'first'
    assert list(target.parent.iterdir()) == [target]
