"""Loading checkpoints runs no code from them, unless that is asked for."""

import os
import pickle
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from mmrfa.checkpoints.mmengine_loaders import load_safely_everywhere
from mmrfa.checkpoints.reading import (
    TRUST,
    load_checkpoint_file,
    load_predictions,
    state_dict_of,
)
from mmrfa.errors import InputError

# Beside the oldest torch the reader is alone.
WITH_MMENGINE = find_spec('mmengine') is not None
needs_mmengine = pytest.mark.skipif(
    not WITH_MMENGINE, reason='mmengine is not installed'
)


class Reduce:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def save(path, content):
    torch.save(content, path)
    return path


@needs_mmengine
def test_log_history_needs_no_trust(tmp_path) -> None:
    from mmengine.logging import HistoryBuffer

    history = HistoryBuffer([1.0, 3.0], [1, 1])
    path = save(tmp_path / 'a.pth', dict(loss=history))
    found = load_checkpoint_file(path)['loss']
    assert isinstance(found, HistoryBuffer)
    assert found.mean(2) == 2


def test_numpy_values(tmp_path) -> None:
    values = dict(
        floats=np.arange(3.0),
        nothing=np.zeros(0),
        bytes=np.zeros((2, 3), np.uint8),
        turned=np.arange(6.0).reshape(2, 3).T,
        other_order=np.arange(3, dtype='>i2'),
        scalar=np.float32(0.5),
        flag=np.bool_(True),
    )
    found = load_checkpoint_file(save(tmp_path / 'a.pth', values))
    for name, value in values.items():
        assert np.array_equal(found[name], value), name
        assert found[name].dtype == value.dtype, name


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


def write_pickle(path, data: bytes, numbers: bytes = b'') -> None:
    """Write a file as torch.save does around a given pickle."""
    with torch.serialization._open_zipfile_writer(str(path)) as archive:
        archive.write_record('data.pkl', data, len(data))
        archive.write_record('byteorder', b'little', 6)
        archive.write_record('data/0', numbers, len(numbers))


@pytest.mark.parametrize('name', ['__init__', '__class__', '_set_default'])
def test_getattr_reaches_nothing(tmp_path, name) -> None:
    """A log history brings getattr along; its methods are not looked up."""
    path = tmp_path / 'a.pth'

    def ask(owner: bytes) -> bytes:
        # A pickle of a dict with getattr(owner, name).
        return (
            b'\x80\x02}X\x01\x00\x00\x00ac__builtin__\ngetattr\n'
            b'c' + owner + b'\nX' + len(name).to_bytes(4, 'little')
            + name.encode() + b'\x86Rs.'
        )  # fmt: skip

    write_pickle(path, ask(b'mmengine.logging.history_buffer\nHistoryBuffer'))
    assert load_checkpoint_file(path) == dict(a=None)
    write_pickle(path, ask(b'collections\nOrderedDict'))
    with pytest.raises(InputError, match=r'refused to run builtins\.getattr'):
        load_checkpoint_file(path)


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
    with pytest.raises(InputError, match='a state for what has none'):
        load_checkpoint_file(path)
    assert not hasattr(torch._utils._rebuild_tensor_v2, 'mark')


def test_shared_and_odd_tensors(tmp_path) -> None:
    """Views of one storage, other types, gradients, old files."""
    weight = torch.arange(6.0).view(2, 3)
    waves = torch.randn(3, dtype=torch.complex64)
    content = dict(
        conjugate=waves.conj(),
        negative=torch.randn(2, dtype=torch.complex64).conj().imag,
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
        for key in 'conjugate', 'negative':  # not as their numbers lie
            assert torch.equal(found[key], content[key])
        assert found['state'].keys() == content['state'].keys()
        assert found['names'] == {'a', 'b'}


def test_trust_is_given_by_name(tmp_path, monkeypatch) -> None:
    mark = tmp_path / 'ran'
    path = save(tmp_path / 'a.pth', dict(a=Reduce(os.mkdir, str(mark))))
    with pytest.raises(InputError, match='--trust-checkpoint'):
        load_checkpoint_file(path)
    assert not mark.exists()
    monkeypatch.setenv(TRUST, '1')
    load_checkpoint_file(path)
    assert mark.exists()


@pytest.fixture
def schemes(monkeypatch):
    """MMEngine's loaders, put back afterwards."""
    from mmengine.runner import CheckpointLoader

    before = dict(CheckpointLoader._schemes)
    monkeypatch.setattr(CheckpointLoader, '_schemes', before)


@needs_mmengine
@pytest.mark.usefixtures('schemes')
def test_mmengine_itself_loads_safely(tmp_path) -> None:
    """MMEngine's loader would fall back to running the code."""
    from mmengine.runner import CheckpointLoader

    reader = load_safely_everywhere()
    # What was read ahead is given out once, then read again.
    path = str(save(tmp_path / 'b.pth', dict(a=1)))
    ahead = reader.keep(path)
    loads = [CheckpointLoader.load_checkpoint(path) for _ in range(2)]
    assert loads[0] is ahead
    assert loads[1] is not ahead and loads[1] == ahead


def test_numbers_of_fixed_size_only(tmp_path) -> None:
    for value in np.array(['ball']), np.array([b'a']), np.array([{}]):
        path = save(tmp_path / 'a.pth', dict(a=value))
        with pytest.raises(InputError, match='numpy.dtype|encode'):
            load_checkpoint_file(path)


def test_settings_are_not_run(tmp_path) -> None:
    """MMEngine runs these texts when it resumes or builds a model."""
    hub = dict(runtime_info=dict(cfg='raise SystemExit', epoch=1))
    meta = dict(config='raise SystemExit', cfg='a = 1', iter=3)
    content = dict(meta=meta, message_hub=hub)
    found = load_checkpoint_file(save(tmp_path / 'a.pth', content))
    assert found == dict(
        meta=dict(iter=3, settings_text='a = 1'),
        message_hub=dict(runtime_info=dict(epoch=1)),
    )


@needs_mmengine
def test_settings_become_plain(tmp_path) -> None:
    from mmengine.config import ConfigDict

    meta = ConfigDict(classes=('ball', 'kite'), sub=dict(a=[1]))
    found = load_checkpoint_file(save(tmp_path / 'a.pth', dict(a=meta)))
    assert found == dict(a=dict(classes=('ball', 'kite'), sub=dict(a=[1])))
    assert type(found['a']) is type(found['a']['sub']) is dict


def test_damage_is_seen(tmp_path) -> None:
    """A thousand bytes of 0xFF inside the numbers."""
    path = save(tmp_path / 'a.pth', dict(a=torch.rand(4000)))
    data = bytearray(path.read_bytes())
    data[8000:9000] = b'\xff' * 1000
    path.write_bytes(data)
    with pytest.raises(InputError, match='damaged.*CRC'):
        load_checkpoint_file(path)


def calling(name: str, *arguments: bytes) -> bytes:
    """A pickle of a dict whose entry is what a call gives."""
    module, _, leaf = name.rpartition('.')
    call = b'c%s\n%s\n(' % (module.encode(), leaf.encode())
    return b'\x80\x02}X\x01\x00\x00\x00a' + call + b''.join(
        arguments
    ) + b'tRs.'  # fmt: skip


def small(number: int) -> bytes:
    return b'\x8a\x08' + number.to_bytes(8, 'little', signed=True)


TENSOR = 'torch._utils._rebuild_tensor_v2'
STORAGE = (
    b'(X\x07\x00\x00\x00storagectorch\nFloatStorage\n'
    b'X\x01\x00\x00\x000X\x03\x00\x00\x00cpu'
)
FOUR = STORAGE + small(4) + b'tQ'


@pytest.mark.parametrize(
    ('data', 'expected'),
    [
        (calling('builtins.bytes', small(2**34)), 'argument'),
        (calling('builtins.bytearray', small(2**34)), 'builtins.bytearray'),
        (calling('numpy.zeros', small(2**40)), 'numpy.zeros'),
        (calling('torch.zeros', small(2**40)), 'torch.zeros'),
        (calling(TENSOR, STORAGE, small(2**40), b'tQ'), 'larger than the'),
        (calling(TENSOR, STORAGE, small(-4), b'tQ'), 'larger than the'),
        (calling(TENSOR, STORAGE, small(3), b'tQ'), 'another size'),
        (
            calling(TENSOR, FOUR, small(1), small(4), b'\x85', small(1),
                    b'\x85', b'\x89N'), 'more numbers',
        ),
        (
            calling(TENSOR, FOUR, small(0), small(2**40), b'\x85', small(0),
                    b'\x85', b'\x89N'), 'more numbers',
        ),
        (
            calling(TENSOR, FOUR, small(-1), small(4), b'\x85', small(1),
                    b'\x85', b'\x89N'), 'sizes that are none',
        ),
        # r + 2**31, a place in the memo that the unpickler in C makes room
        # for
        (b'\x80\x02}r\x00\x00\x00\x80.', None),
        # bytearray of 2**40, whose buffer is made first
        (b'\x80\x05\x96' + (2**40).to_bytes(8, 'little') + b'.', '150'),
        (b'\x80\x02' + b'(' * 50 + b'.', 'another kind'),
        # the hash of tuples in tuples
        (b'\x80\x02})' + b'2\x86' * 64 + b'K\x01s.', 'a key of type tuple'),
        (b'\x80\x02ccollections\nOrderedDict\n)RNb.', 'a state for what'),
        (calling('torch.nn.parameter.Parameter', small(3)), 'no function'),
        (calling('numpy.ndarray', small(3)), 'no function'),
    ],
)  # fmt: skip
def test_sizes_before_memory(tmp_path, data, expected) -> None:
    """Each would take gigabytes, crash or hang a reader that believes it."""
    path = tmp_path / 'a.pth'
    write_pickle(path, data, numbers=bytes(16))
    if expected is None:
        assert load_checkpoint_file(path) == {}
        return
    with pytest.raises(InputError, match=expected):
        load_checkpoint_file(path)


def test_bombs(tmp_path) -> None:
    """Compressed entries, and entries that share their bytes."""
    whole = save(tmp_path / 'a.pth', dict(a=torch.zeros(100_000)))
    with zipfile.ZipFile(whole) as archive:
        entries = {n: archive.read(n) for n in archive.namelist()}
    for name, kind in dict(
        b=zipfile.ZIP_DEFLATED, c=zipfile.ZIP_STORED
    ).items():
        path = tmp_path / name
        with zipfile.ZipFile(path, 'w', kind) as archive:
            for key, data in entries.items():
                archive.writestr(key, data)
            if kind == zipfile.ZIP_STORED:
                archive.filelist += archive.filelist * 3
        with pytest.raises(InputError, match='compressed|more data than'):
            load_checkpoint_file(path)


def fuzzed(data: bytes, rng: np.random.Generator) -> bytes:
    """Data with one to four bytes changed, cut out, doubled or made long."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, end = sorted(rng.integers(0, len(data), 2))
        way = rng.integers(4)
        if way == 0:
            data[at] = rng.integers(256)
        elif way == 1:
            del data[at : min(end, at + 8)]
        elif way == 2:
            data[at:at] = data[at : min(end, at + 40)]
        else:
            data[at : at + 4] = bytes([255 * int(rng.integers(2))]) * 4
    return bytes(data)


@pytest.mark.parametrize('form', ['archive', 'older', 'plain pickle'])
def test_fuzzed_files_are_refused_or_read(tmp_path, form) -> None:
    """No crash, no other error, whatever the pickle says."""
    history = {}
    if WITH_MMENGINE:
        from mmengine.logging import HistoryBuffer

        history = dict(a=HistoryBuffer([1.0], [1]))
    content = dict(
        state_dict=torch.nn.Linear(3, 2).state_dict(),
        optimizer=dict(state={0: dict(step=torch.tensor(3.0))}),
        message_hub=dict(history, b=np.float64(0.5)),
        meta=dict(iter=3, palette=[(1, 2)], half=torch.zeros(2).half()),
    )
    path, source = tmp_path / 'a.pth', tmp_path / 'b.pth'
    torch.save(content, source, _use_new_zipfile_serialization=form != 'older')
    if form == 'archive':
        with zipfile.ZipFile(source) as archive:
            entries = {n: archive.read(n) for n in archive.namelist()}
        (name,) = [n for n in entries if n.endswith('/data.pkl')]
    whole = (
        pickle.dumps(content, 2)
        if form == 'plain pickle'
        else entries[name] if form == 'archive'
        else source.read_bytes()
    )  # fmt: skip
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        data = fuzzed(whole, rng)
        if form == 'archive':
            with zipfile.ZipFile(path, 'w') as archive:
                for key, entry in entries.items():
                    archive.writestr(key, data if key == name else entry)
        else:
            path.write_bytes(data)
        load = load_predictions if form == 'plain pickle' else (
            load_checkpoint_file
        )  # fmt: skip
        try:
            load(path)
        except InputError:
            refused += 1
    assert 250 < refused


def test_parameters_have_names():
    weight = torch.zeros(1)
    assert state_dict_of({0: weight, 'module.a': weight}, 'x') == {'a': weight}
    with pytest.raises(InputError, match='x: expected tensors, found none'):
        state_dict_of({0: weight}, 'x')
