"""Whether a checkpoint fits a network, and a run that goes on."""

import re
from collections import OrderedDict

from torch import nn

from mmrfa.checkpoints.names import current_names
from mmrfa.errors import InputError


def check_fits(content: dict, model: nn.Module, name: str) -> None:
    """Make sure that a checkpoint fills a network exactly.

    Args:
        content (dict): a state dict, or a dict with one as ``state_dict``,
            the two forms that MMEngine's Runner reads.
        model (nn.Module): the network; its parameters are overwritten.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: missing, unexpected or other-shaped parameters; the
            message counts them and names the first of each.
    """
    found = content.get('state_dict', content)
    state = {re.sub(r'^module\.', '', k): v for k, v in found.items()}
    state = OrderedDict(current_names(state, model))
    # Versions, by which modules bring old names up to date as they load.
    state._metadata = getattr(found, '_metadata', OrderedDict())
    own = model.state_dict()
    reshaped = [
        key
        for key, value in state.items()
        if key in own and own[key].shape != getattr(value, 'shape', None)
    ]
    examples = [
        f'{key}, {tuple(getattr(state.pop(key), "shape", ()))} instead of '
        f'{tuple(own[key].shape)}'
        for key in reshaped
    ]
    result = model.load_state_dict(state, strict=False)
    missing = [
        key
        for key in result.missing_keys
        if key not in reshaped and not key.endswith('num_batches_tracked')
    ]
    wrong = [
        f'{len(names)} {kind} (first: {names[0]})'
        for kind, names in (
            ('missing', missing),
            ('unexpected', result.unexpected_keys),
            ('of another shape', examples),
        )
        if names
    ]
    if wrong:
        raise InputError(
            f'checkpoint {name}: expected the {len(own)} tensors of this '
            f'{type(model).__name__}, got {", ".join(wrong)}'
        )


def check_resumable(content: dict, name: str) -> None:
    """Make sure that a checkpoint holds the state of a training run.

    Args:
        content (dict): what the file holds.
        name (str): of the checkpoint, for the error message.

    Raises:
        InputError: it holds weights only.
    """
    needed = ('state_dict', 'meta', 'message_hub', 'optimizer')
    lacking = [key for key in needed if key not in content]
    if lacking:
        raise InputError(
            f'checkpoint {name}: expected the state of a training run to '
            f'resume, it lacks {", ".join(lacking)}; to start from its '
            'weights alone use --cfg-options load_from=FILE'
        )
