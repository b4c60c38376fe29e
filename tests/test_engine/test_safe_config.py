"""What configs are made of stays data."""

import pytest

from mmrfa.engine.config import load_config
from mmrfa.errors import InputError


def test_yaml_calls_nothing(tmp_path) -> None:
    mark = tmp_path / 'ran'
    path = tmp_path / 'a.yaml'
    path.write_text(f'a: !!python/object/apply:os.mkdir ["{mark}"]')
    with pytest.raises(InputError, match='cannot be read: .*os.mkdir'):
        load_config(str(path))
    assert not mark.exists()
    # What MMEngine writes can be read.
    path.write_text('a: !!python/tuple [1, !!python/tuple [2, 3]]\nb: {c: x}')
    config = load_config(str(path))
    assert config.a == (1, (2, 3))
    assert config.b.c == 'x'


VALUES = [
    "/data/o'brien/x",
    '/data/a "b"',
    '/data/back\\slash\\g<0>\\n',
    "'; __import__('os').mkdir('ran'); a = '",
    'two\nlines',
]


@pytest.mark.parametrize('quote', ["'", '"'])
@pytest.mark.parametrize('value', VALUES)
def test_environment_stays_text(tmp_path, monkeypatch, quote, value) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MMRFA_DATA_ROOT', value)
    path = tmp_path / 'a.py'
    path.write_text(f'a = {quote}{{{{$MMRFA_DATA_ROOT:data}}}}/voc{quote}')
    assert load_config(str(path)).a == f'{value}/voc'
    assert not (tmp_path / 'ran').exists()
