"""Arguments of registered types, looked at before anything is built."""

import inspect
import types
from typing import TYPE_CHECKING, Union, get_args, get_origin

if TYPE_CHECKING:
    from mmengine.registry import Registry

# What does as well as what is written in a signature.
_ALSO = {float: (int,), list: (tuple,)}


def registered(registry: 'Registry', settings: dict) -> type:
    """Take type and scope out of settings.

    Args:
        registry (Registry): has the type.
        settings (dict): of a part; changed.

    Returns:
        type: what they stand for.

    Raises:
        KeyError: there is no such type.
    """
    kind = name = settings.pop('type')
    # Entries that come from a config of another package have one.
    scope = settings.pop('_scope_', None)
    if isinstance(name, str):
        # the scope of the config first, as in building
        with registry.switch_scope_and_registry(scope) as scoped:
            kind = scoped.get(name)
    if not callable(kind):
        raise KeyError(f'{name!r} is not registered as {registry.name}')
    return kind


def bound(registry: 'Registry', settings: dict) -> type:
    """Find the type of a dict and see whether it takes the other entries.

    Args:
        registry (Registry): has the type.
        settings (dict): of a part; not changed.

    Returns:
        type: the type.

    Raises:
        KeyError: there is no such type.
        TypeError: unknown, missing or wrong entries.
    """
    settings = dict(settings)
    kind = registered(registry, settings)
    inspect.signature(kind).bind(**settings)
    check_types(kind, settings)
    return kind


def check_types(kind: type, settings: dict) -> None:
    """Compare values with the plain types that a class says it takes.

    Args:
        kind (type): the class.
        settings (dict): arguments by name.

    Raises:
        TypeError: names the argument.
    """
    for owner in reversed(getattr(kind, '__mro__', ())):
        if not owner.__module__.startswith(('mmengine.', 'mmrfa.')):
            continue  # what others say is not always so
        hints = getattr(owner.__init__, '__annotations__', {})
        defaults = inspect.signature(owner.__init__).parameters
        for name in {*hints} & {*settings} & {*defaults}:
            hint, value = hints[name], settings[name]
            options = get_args(hint) if _is_union(hint) else (hint,)
            options = tuple(get_origin(o) or o for o in options)
            options += _ALSO.get(options[0], ())
            known = all(isinstance(option, type) for option in options)
            whole = isinstance(value, float) and value.is_integer()
            if known and not (
                isinstance(value, options)
                or value is defaults[name].default
                or (whole and int in options)
            ):
                wanted = ' or '.join(o.__name__ for o in options)
                raise TypeError(f'{name}: expected {wanted}, got {value!r}')


def _is_union(hint: object) -> bool:
    return get_origin(hint) in (Union, types.UnionType)
