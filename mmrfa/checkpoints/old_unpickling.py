"""Reading pickles from a list of what they may refer to, before torch 2.6.

Later releases have ``torch.serialization.safe_globals``. Remove this file
when they are the oldest ones supported.
"""

import _codecs
import _compat_pickle
import pickle
from types import SimpleNamespace


def restricted_pickle(allowed: dict[str, object]) -> SimpleNamespace:
    """Make a pickle module for ``torch.load(..., pickle_module=...)``.

    Args:
        allowed (dict[str, object]): what a file may name, beside what
            ``weights_only=True`` lets through, and what it gets for it.

    Returns:
        SimpleNamespace: has ``Unpickler`` and ``load``, which raise
        ``UnpicklingError`` where a file names anything else.
    """
    from torch._weights_only_unpickler import _get_allowed_globals

    known = {
        **_get_allowed_globals(),
        **allowed,
        # What later releases let through as well. Bytes are written as a
        # call of encode.
        'builtins.set': set,
        '_codecs.encode': _codecs.encode,
    }
    kinds = tuple(value for value in known.values() if isinstance(value, type))

    class Unpickler(pickle._Unpickler):
        dispatch = dict(pickle._Unpickler.dispatch)

        def find_class(self, module: str, name: str) -> object:
            path = (
                f'{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}'
            )
            if path not in known:
                raise pickle.UnpicklingError(f'GLOBAL {path}')
            return known[path]

        def load_build(self) -> None:
            # Not of a class or a function, whose attributes are code.
            if not isinstance(self.stack[-2], kinds):
                raise pickle.UnpicklingError('GLOBAL builtins.setattr')
            super().load_build()

        dispatch[pickle.BUILD[0]] = load_build

    def load(file, **options) -> object:
        return Unpickler(file, **options).load()

    return SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=load)
