"""Errors of any part of a config, as one line that names its place."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mmrfa.engine.config import reason
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config


@contextmanager
def naming(
    config: 'Config',
    key: str,
    what: str = 'cannot be built',
    places: dict[int, str] | None = None,
) -> Iterator[None]:
    """Turn whatever a block raises into an error of the user.

    The innermost part that is known where it happened is named: the dict
    that MMEngine's registries were building, or an object of ``places``.

    Args:
        config (Config): has the part.
        key (str): of the part, dotted.
        what (str): what failed. Defaults to building it.
        places (dict[int, str] | None): keys of objects, by their ``id``.

    Raises:
        InputError: names the place and the reason.
    """
    try:
        yield
    except Exception as error:  # arguments of anything can raise anything
        known, place = isinstance(error, InputError), None
        for frame, _ in traceback.walk_tb(error.__traceback__):
            place = (places or {}).get(id(frame.f_locals.get('self')), place)
            if frame.f_code.co_name == 'build_from_cfg':
                place = _find(config, key, frame.f_locals['cfg']) or place
        begin = f'config {config.filename}: '
        if known and (place is None or str(error).startswith(begin)):
            raise
        text = str(error) if known else f'{what}: {reason(error)}'
        raise InputError(
            f'{begin}{place or key}{":" * known} {text}'
        ) from error


def _find(config: 'Config', key: str, part: object) -> str | None:
    """The place of a part below a key; of its type if it was changed."""
    node = config
    for name in key.split('.'):
        node = node.get(name) if hasattr(node, 'get') else None
    typed = [
        (path, settings)
        for path, settings in _dicts(node, key)
        if isinstance(part, dict) and settings.get('type') == part.get('type')
    ]
    same = [path for path, settings in typed if settings == part]
    return next(iter(same or [path for path, _ in typed]), None)


def _dicts(node: object, key: str) -> Iterator[tuple[str, dict]]:
    if isinstance(node, dict):
        yield key, node
        for name, child in node.items():
            yield from _dicts(child, f'{key}.{name}')
    elif isinstance(node, list | tuple):
        for number, child in enumerate(node):
            yield from _dicts(child, f'{key}[{number}]')
