"""Which convolutions are asked for: what ``where`` and ``exclude`` mean."""

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from numbers import Integral

from torch import nn

from mmrfa.errors import InputError

Choice = (
    int
    | tuple[int, int]
    | str
    | Sequence[str]
    | re.Pattern
    | Callable[[str, nn.Module], bool]
)
Chooser = Callable[[str, nn.Module], bool]


def chooser(choice: Choice, argument: str, names: Iterable[str]) -> Chooser:
    """Turn a choice into a function of name and module.

    Args:
        choice (Choice): a kernel size in pixels, (kh, kw) or one for both; a
            glob over whole names or several, ``*`` being any text with its
            dots; a compiled regex, found anywhere in a name; or
            ``callable(name, convolution)``.
        argument (str): what it is called, for error messages.
        names (Iterable[str]): of all convolutions.

    Raises:
        InputError: of another kind, or a glob or regex that fits no name.
    """
    if isinstance(choice, Integral) and not isinstance(choice, bool):
        choice = choice, choice
    if isinstance(choice, str):
        choice = (choice,)
    if isinstance(choice, re.Pattern):
        _check_fits(choice.pattern, argument, names, choice.search)
        return lambda name, _: choice.search(name) is not None
    if callable(choice) and not isinstance(choice, nn.Module):
        return choice
    if isinstance(choice, Sequence) and choice:
        if all(isinstance(part, str) for part in choice):
            for glob in choice:
                _check_fits(
                    glob, argument, names, lambda n, g=glob: fnmatchcase(n, g)
                )
            return lambda name, _: any(fnmatchcase(name, g) for g in choice)
        if len(choice) == 2 and all(
            isinstance(k, Integral) and k > 0 for k in choice
        ):
            return lambda _, conv: conv.kernel_size == tuple(choice)
    raise InputError(
        f'{argument}: expected a kernel size, globs, a compiled regex or '
        f'callable(name, convolution), got {choice!r}'
    )


def _check_fits(
    pattern: str,
    argument: str,
    names: Iterable[str],
    fits: Callable[[str], object],
) -> None:
    if not any(map(fits, names)):
        first = ', '.join(list(names)[:3])
        raise InputError(
            f'{argument}: expected a pattern that fits the name of a '
            f'convolution (first names: {first}), got {pattern!r}'
        )


def why_unusual(conv: nn.Module, first: bool) -> str | None:
    """Why a convolution is left out unless ``where`` asks for it.

    Args:
        conv (nn.Module): any convolution.
        first (bool): it is the first one of the network.
    """
    if conv.kernel_size != (3, 3):
        return f'kernel {"x".join(map(str, conv.kernel_size))}'
    if first:
        return 'the first convolution, which sees the image'
    if conv.groups == conv.in_channels > 1:
        return 'depthwise'
    return None
