"""Unpickling that builds tensors, numbers and plain containers alone.

A pickle is a program. Here the names in it stand for the functions of this
file, whatever they mean elsewhere, and nothing else can be called: what NumPy
or MMEngine would rebuild from raw state becomes an inert stand-in first and
is made from checked parts at the end. One set of rules for every torch.
"""

import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable
from math import prod
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

# Without: classes made by name and state (INST, OBJ, NEWOBJ_EX), registered
# extensions, and buffers that are allocated before they are read.
_OPCODES = (
    'PROTO STOP FRAME MARK POP POP_MARK DUP MEMOIZE GET BINGET LONG_BINGET '
    'PUT BINPUT LONG_BINPUT NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 '
    'LONG1 LONG4 FLOAT BINFLOAT STRING SHORT_BINSTRING BINSTRING BINBYTES '
    'SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 '
    'EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS '
    'EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET GLOBAL '
    'STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID'
).split()
_PLAIN = str | bytes | int | float | complex | bool | None
# kinds and sizes of numbers in arrays
_NUMBERS = {f'{k}{n}' for k in 'iu' for n in (1, 2, 4, 8)}
_NUMBERS |= {'b1', 'f2', 'f4', 'f8', 'c8', 'c16'}
DTYPES = {
    f'torch.{name}': dtype
    for name, dtype in vars(torch).items()
    if isinstance(dtype, torch.dtype) and 'q' not in name
}
_STORAGES = dict(
    Double='float64', Float='float32', Half='float16', BFloat16='bfloat16',
    Long='int64', Int='int32', Short='int16', Char='int8', Byte='uint8',
    Bool='bool', ComplexDouble='complex128', ComplexFloat='complex64',
    Untyped='uint8',
)  # fmt: skip


class Refused(pickle.UnpicklingError):
    """A file names what only running code could give."""


class Malformed(pickle.UnpicklingError):
    """A file says what cannot be."""


class Storage:
    """Numbers of one type in a file.

    Args:
        data (UntypedStorage): the bytes.
        dtype (torch.dtype): of the numbers.
    """

    def __init__(self, data: torch.UntypedStorage, dtype: torch.dtype):
        self.data, self.dtype = data, dtype


class Unpickler(pickle._Unpickler):
    """Reads one pickle; see the top of this file.

    It is Python's own one in Python: the one in C fills memory for whatever
    index a file gives.

    Args:
        file (BinaryIO): stands at a pickle.
        find_storage (Callable): gives a :class:`Storage` for a persistent id.
        read_blob (Callable): reads a storage that is pickled as bytes.
    """

    def __init__(
        self,
        file: BinaryIO,
        find_storage: Callable[[object], object] | None = None,
        read_blob: Callable[[bytes], object] | None = None,
    ) -> None:
        super().__init__(file, encoding='utf-8')
        self.find_storage = find_storage
        self.known = {**_KNOWN, 'torch.storage._load_from_bytes': read_blob}
        self.called = _CALLED | {id(read_blob)}

    def read(self) -> object:
        """Return what the pickle holds.

        Raises:
            Refused: it needs code to be run.
            Malformed: it contradicts itself.
        """
        return _finish(self.load(), {})

    def find_class(self, module: str, name: str) -> object:
        path = f'{module}.{name}'.replace('__builtin__.', 'builtins.')
        # NumPy renamed its core package in 2.0.
        path = path.replace('numpy.core.', 'numpy._core.')
        found = self.known.get(path)
        if found is None:
            raise Refused(path)
        return found

    def persistent_load(self, pid: object) -> object:
        if self.find_storage is None:
            raise Malformed('a reference to other data')
        return self.find_storage(pid)

    dispatch = {
        getattr(pickle, name)[0]: pickle._Unpickler.dispatch[
            getattr(pickle, name)[0]
        ]
        for name in _OPCODES
    }

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if id(function) not in self.called or type(arguments) is not tuple:
            raise Malformed('a call of what is no function')
        self.stack[-1] = function(*arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        kind = self.stack.pop()
        if kind is not _History or arguments != ():
            raise Malformed('an object of what is no class')
        self.append(kind())

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _StandIn):
            target.state = state
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            # Versions, which torch hangs on a state dict.
            target._metadata = state.get('_metadata', OrderedDict())
        else:
            raise Malformed('a state for what has none')

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self) -> None:
        self._fill(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._fill(items)

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def load_additems(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            raise Malformed('entries of what is no set')
        self.stack[-1].update(_hashable(items))

    def load_frozenset(self) -> None:
        self.append(frozenset(_hashable(self.pop_mark())))

    def _fill(self, items: list) -> None:
        if not isinstance(self.stack[-1], dict):
            raise Malformed('entries of what is no dict')
        self.stack[-1].update(_pairs(items))

    def _extend(self, items: list) -> None:
        if not isinstance(self.stack[-1], list):
            raise Malformed('entries of what is no list')
        self.stack[-1].extend(items)


for _name in (
    'reduce newobj build setitem setitems dict append appends additems '
    'frozenset'
).split():
    Unpickler.dispatch[getattr(pickle, _name.upper())[0]] = getattr(
        Unpickler, f'load_{_name}'
    )


def _pairs(items: list) -> dict:
    return dict(zip(_hashable(items[::2]), items[1::2], strict=True))


def _hashable(keys: list) -> list:
    # The hash of tuples in tuples can take for ever.
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, _PLAIN) for part in parts):
            raise Malformed(f'a key of type {type(key).__name__}')
    return keys


class _StandIn:
    state: object = None


class _Dtype(_StandIn):
    def __init__(self, text: str, *_: object) -> None:
        if text not in _NUMBERS:
            raise Refused(f'numpy.dtype {str(text)[:40]}')
        self.text = text

    def make(self) -> np.dtype:
        order = self.state[1] if isinstance(self.state, tuple) else '|'
        if order not in ('<', '>', '|', '='):
            raise Malformed(f'a byte order {order!r:.40}')
        return np.dtype(self.text).newbyteorder(order)


class _Array(_StandIn):
    def __init__(self, *_: object) -> None:
        pass

    def make(self) -> np.ndarray:
        _, shape, dtype, columns_first, data = self.state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise Malformed('an array of what is no numbers')
        dtype = dtype.make()
        if prod(_naturals(shape)) * dtype.itemsize != len(data):
            raise Malformed('an array of another size')
        flat = np.frombuffer(data, dtype)
        return flat.reshape(shape, order='F' if columns_first else 'C').copy()


class _History(_StandIn):
    """MMEngine's HistoryBuffer; its methods come with the class again."""

    def make(self, state: dict) -> object:
        from mmengine.logging import HistoryBuffer

        values, counts = state['_log_history'], state['_count_history']
        return HistoryBuffer(values, counts, int(state['max_length']))


def _naturals(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(
        type(value) is int and value >= 0 for value in values
    ):
        raise Malformed('sizes that are none')
    return tuple(values)


def _number(dtype: _Dtype, data: bytes) -> np.generic:
    dtype = dtype.make()
    if len(data) != dtype.itemsize:
        raise Malformed('a number of another size')
    return np.frombuffer(data, dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != 'latin1':
        raise Malformed(f'an encoding {encoding!r:.40}')
    return text.encode('latin1')


def _no_bytes() -> bytes:
    return b''


def _method(owner: object, name: str) -> None:
    """A history names its own methods."""
    if owner is not _History:
        raise Refused('builtins.getattr')


def _ordered(items: list = ()) -> OrderedDict:
    return OrderedDict(_pairs([part for item in items for part in item]))


def _counter(items: dict) -> Counter:
    return Counter(_config(items))


def _config(items: dict) -> dict:
    """MMEngine's dict of settings becomes a plain one."""
    if not isinstance(items, dict):
        raise Malformed('entries of what is no dict')
    return dict(items)


def _set(items: list) -> set:
    return set(_hashable(items))


def _slice(*bounds: int | None) -> slice:
    return slice(*_hashable(bounds))


def _size(sizes: tuple) -> torch.Size:
    return torch.Size(_naturals(sizes))


def _device(kind: str, index: int | None = None) -> torch.device:
    return torch.device(kind) if index is None else torch.device(kind, index)


def _tensor(
    storage: Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool = False,
    hooks: object = None,
    metadata: dict | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Tensor of a part of a storage; what hooks it had are dropped."""
    if not isinstance(storage, Storage):
        raise Malformed('a tensor of what is no storage')
    dtype = dtype or storage.dtype
    empty = torch.empty(0, dtype=dtype, device=storage.data.device)
    size, stride = _naturals(size), _naturals(stride)
    (offset,) = _naturals([offset])
    count = storage.data.nbytes() // empty.element_size()
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if prod(size) and (offset + last >= count or prod(size) > count):
        raise Malformed('a tensor of more numbers than there are')
    found = empty.set_(storage.data, offset, size, stride)
    bits = _config(metadata or {})
    if bits.get('conj'):
        found = found.conj()
    if bits.get('neg'):
        found = torch._neg_view(found)
    return found.requires_grad_(bool(requires_grad))


def _tensor_v3(
    storage, offset, size, stride, grad, hooks, dtype, metadata=None
) -> Tensor:
    made = storage, offset, size, stride, grad, hooks, metadata
    return _tensor(*made, dtype=dtype)


def _parameter(data: Tensor, requires_grad: bool, *_: object) -> nn.Parameter:
    return nn.Parameter(data, bool(requires_grad))


def _of_type(function: Callable, kind: type, arguments: tuple, _) -> Tensor:
    if function not in (_tensor, _tensor_v3, _parameter):
        raise Malformed('a tensor of an unknown kind')
    return function(*arguments)


_KNOWN = {
    'builtins.set': _set,
    'builtins.slice': _slice,
    'builtins.bytes': _no_bytes,
    'builtins.complex': complex,
    'builtins.getattr': _method,
    '_codecs.encode': _encode,
    'collections.OrderedDict': _ordered,
    'collections.Counter': _counter,
    'numpy.dtype': _Dtype,
    'numpy.ndarray': np.ndarray,  # an argument, never called
    'numpy._core.multiarray._reconstruct': _Array,
    'numpy._core.multiarray.scalar': _number,
    'mmengine.config.config.ConfigDict': _config,
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'torch.Size': _size,
    'torch.device': _device,
    'torch.Tensor': Tensor,  # an argument, never called
    'torch.nn.parameter.Parameter': nn.Parameter,  # as well
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_v3,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._tensor._rebuild_from_type_v2': _of_type,
    **DTYPES,
    **{
        f'torch.{module}{name}Storage': getattr(torch, dtype)
        for name, dtype in _STORAGES.items()
        for module in ('', 'storage.')
    },
}
_CALLED = {
    id(value)
    for value in _KNOWN.values()
    if callable(value) and value not in (np.ndarray, Tensor, nn.Parameter)
}


def _finish(value: object, done: dict[int, tuple[object, object]]) -> object:
    """Replace the stand-ins below a value; ``done`` keeps both alive."""
    if not isinstance(value, _StandIn | dict | list | tuple):
        return value
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, dict | list):
        done[id(value)] = value, value
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in list(items):
            value[key] = _finish(item, done)
        return value
    if isinstance(value, tuple):
        made = tuple(_finish(item, done) for item in value)
        made = value if isinstance(value, torch.Size) else made
    elif isinstance(value, _History):
        made = value.make(_finish(value.state, done))
    else:
        made = value.make()
    done[id(value)] = value, made
    return made
