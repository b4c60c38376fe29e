"""Loading checkpoints runs no code from them, unless that is asked for."""

import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmrfa.checkpoints import reading
from mmrfa.checkpoints.reading import (
    TRUST,
    load_checkpoint_file,
    load_safely_everywhere,
)
from mmrfa.errors import InputError

RELEASE = tuple(map(int, torch.__version__.split('.')[:2]))


@pytest.fixture(params=['torch', 'own'] if RELEASE >= (2, 6) else ['own'])
def reader(request, monkeypatch) -> None:
    """Torch's list of what a file may name, and ours for torch before 2.6."""
    if request.param == 'own':
        monkeypatch.setattr(reading, 'TORCH_HAS_LISTS', False)
    assert reading.TORCH_HAS_LISTS == (request.param == 'torch')


either_reader = pytest.mark.usefixtures('reader')


class Reduce:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def save(path, content):
    torch.save(content, path)
    return path


@either_reader
def test_log_history_needs_no_trust(tmp_path) -> None:
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    path = save(tmp_path / 'a.pth', dict(loss=history))
    found = load_checkpoint_file(path)['loss']
    assert isinstance(found, HistoryBuffer)
    assert found.mean(2) == 2


@either_reader
def test_numpy_values(tmp_path) -> None:
    values = dict(
        floats=np.arange(3.0),
        nothing=np.zeros(0),
        bytes=np.zeros((2, 3), np.uint8),
        text=np.array(['ball', 'kite']),
        scalar=np.float32(0.5),
        flag=np.bool_(True),
    )
    found = load_checkpoint_file(save(tmp_path / 'a.pth', values))
    for name, value in values.items():
        assert np.array_equal(found[name], value), name


@either_reader
@pytest.mark.parametrize('package', [b'numpy.core', b'numpy._core'])
def test_numpy_of_either_age(tmp_path, package) -> None:
    """NumPy renamed its core package in 2.0."""
    data = pickle.dumps(dict(a=np.arange(3)), protocol=2)
    data = data.replace(b'numpy._core', b'numpy.core')
    data = data.replace(b'numpy.core', package)
    assert package + b'.multiarray' in data
    path = tmp_path / 'a.pth'
    write_pickle(path, data)
    assert load_checkpoint_file(path)['a'].tolist() == [0, 1, 2]


def write_pickle(path, data: bytes) -> None:
    """Write a file as torch.save does around a given pickle."""
    with torch.serialization._open_zipfile_writer(str(path)) as archive:
        archive.write_record('data.pkl', data, len(data))
        archive.write_record('byteorder', b'little', 6)


@either_reader
@pytest.mark.parametrize('name', ['__init__', '__class__', '_set_default'])
def test_getattr_reaches_nothing_else(tmp_path, name) -> None:
    """A log history brings getattr along, but only for its statistics."""
    path = save(tmp_path / 'a.pth', dict(a=HistoryBuffer()))
    load_checkpoint_file(path)
    # A pickle that calls getattr(HistoryBuffer, name).
    data = (
        b'\x80\x02}X\x01\x00\x00\x00ac__builtin__\ngetattr\n'
        b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
        b'X' + len(name).to_bytes(4, 'little') + name.encode() + b'\x86Rs.'
    )
    write_pickle(path, data)
    with pytest.raises(InputError, match=r'refused to run builtins\.getattr'):
        load_checkpoint_file(path)


@either_reader
def test_functions_keep_their_attributes(tmp_path) -> None:
    """A pickle may fill the objects that it makes, not the code it names."""
    path = tmp_path / 'a.pth'
    # A pickle that sets _rebuild_tensor_v2.mark to 'x'.
    write_pickle(
        path,
        b'\x80\x02}X\x01\x00\x00\x00a'
        b'ctorch._utils\n_rebuild_tensor_v2\n'
        b'N}X\x04\x00\x00\x00markX\x01\x00\x00\x00xs\x86bs.',
    )
    with pytest.raises(InputError):
        load_checkpoint_file(path)
    assert not hasattr(torch._utils._rebuild_tensor_v2, 'mark')


@either_reader
def test_shared_and_odd_tensors(tmp_path) -> None:
    """Views of one storage, other types, gradients, old files."""
    weight = torch.arange(6.0).view(2, 3)
    content = dict(
        weight=weight,
        view=weight[0],
        half=weight.bfloat16(),
        mask=weight > 2,
        parameter=torch.nn.Parameter(weight),
        state=torch.nn.Linear(2, 2).state_dict(),
        names={'a', 'b'},
    )
    for old in False, True:
        path = tmp_path / f'{old}.pth'
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        found = load_checkpoint_file(path)
        assert torch.equal(found['weight'], weight)
        assert found['view'].data_ptr() == found['weight'].data_ptr()
        assert found['half'].dtype == torch.bfloat16
        assert torch.equal(found['mask'], weight > 2)
        assert found['parameter'].requires_grad
        assert found['state'].keys() == content['state'].keys()
        assert found['names'] == {'a', 'b'}


@either_reader
def test_trust_is_given_by_name(tmp_path, monkeypatch) -> None:
    mark = tmp_path / 'ran'
    path = save(tmp_path / 'a.pth', dict(a=Reduce(os.mkdir, str(mark))))
    with pytest.raises(InputError, match='--trust-checkpoint'):
        load_checkpoint_file(path)
    assert not mark.exists()
    monkeypatch.setenv(TRUST, '1')
    load_checkpoint_file(path)
    assert mark.exists()


@either_reader
def test_mmengine_itself_loads_safely(tmp_path, monkeypatch) -> None:
    """MMEngine's loader would fall back to running the code."""
    monkeypatch.setattr(
        CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes)
    )
    mark = tmp_path / 'ran'
    path = save(tmp_path / 'a.pth', dict(a=Reduce(os.mkdir, str(mark))))
    reader = load_safely_everywhere()
    with pytest.raises(InputError):
        CheckpointLoader.load_checkpoint(str(path), 'cpu')
    assert not mark.exists()
    # What was read ahead is given out once, then read again.
    path = str(save(tmp_path / 'b.pth', dict(a=1)))
    ahead = reader.keep(path)
    loads = [CheckpointLoader.load_checkpoint(path) for _ in range(2)]
    assert loads[0] is ahead
    assert loads[1] is not ahead and loads[1] == ahead
