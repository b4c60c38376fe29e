"""Loading checkpoints runs no code from them, unless that is asked for."""

import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmrfa.errors import InputError
from mmrfa.utils import checkpoint
from mmrfa.utils.checkpoint import (
    TRUST,
    check_fits,
    load_checkpoint_file,
    load_safely_everywhere,
)

from .tool_calls import TINY_SEG

RELEASE = tuple(map(int, torch.__version__.split('.')[:2]))


@pytest.fixture(params=['torch', 'own'] if RELEASE >= (2, 6) else ['own'])
def reader(request, monkeypatch) -> None:
    """Torch's list of what a file may name, and ours for torch before 2.6."""
    if request.param == 'own':
        monkeypatch.setattr(checkpoint, 'TORCH_HAS_LISTS', False)
    assert checkpoint.TORCH_HAS_LISTS == (request.param == 'torch')


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
def test_own_checkpoint_needs_no_trust(trained) -> None:
    """With log history, optimizer state and the data set's description."""
    content = load_checkpoint_file(trained / 'iter_6.pth')
    history = content['message_hub']['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.data[0].shape == (6,)
    assert np.isfinite(history.mean(6))
    assert content['meta']['dataset_meta']['classes'][1] == 'ball'
    assert content['optimizer']['state']


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
    load_safely_everywhere()
    with pytest.raises(InputError):
        CheckpointLoader.load_checkpoint(str(path), 'cpu')
    assert not mark.exists()


def test_tools_pass_on_the_trust(call, trained, tmp_path, capsys) -> None:
    content = torch.load(trained / 'iter_6.pth', weights_only=False)
    content['meta']['code'] = Reduce(os.getcwd)
    path = save(tmp_path / 'a.pth', content)
    arguments = TINY_SEG, path, '--work-dir', tmp_path / 'work'
    assert call('test.py', *arguments) == 2
    assert 'refused to run' in capsys.readouterr().err
    assert call('test.py', *arguments, '--trust-checkpoint') == 0


def test_fit_is_exact() -> None:
    def net(**sizes: int) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict(
            {k: torch.nn.Conv2d(3, v, 1) for k, v in sizes.items()}
        )

    content = dict(state_dict=net(a=1, b=2).state_dict())
    check_fits(content, net(a=1, b=2), 'x.pth')
    with pytest.raises(InputError) as error:
        check_fits(content, net(a=4, c=2), 'x.pth')
    assert str(error.value) == (
        'checkpoint x.pth: expected the 4 tensors of this ModuleDict, got '
        '2 missing (first: c.weight), 2 unexpected (first: b.weight), '
        '2 of another shape (first: a.weight, (1, 3, 1, 1) instead of '
        '(4, 3, 1, 1))'
    )
    # As from DistributedDataParallel, and a batch counter too few.
    norm = torch.nn.BatchNorm2d(3)
    state = {f'module.{k}': v for k, v in norm.state_dict().items()}
    del state['module.num_batches_tracked']
    check_fits(state, torch.nn.BatchNorm2d(3), 'x.pth')
