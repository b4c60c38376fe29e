"""What the names of a checkpoint's parameters tell, and how to write them."""

import re
from collections.abc import Iterable

from torch import Tensor, nn

from mmrfa.errors import InputError
from mmrfa.layers import AttentionConv2d

DEPTHS = {
    ('BasicBlock', (2, 2, 2, 2)): 18,
    ('BasicBlock', (3, 4, 6, 3)): 34,
    ('Bottleneck', (3, 4, 6, 3)): 50,
    ('Bottleneck', (3, 4, 23, 3)): 101,
    ('Bottleneck', (3, 8, 36, 3)): 152,
}
BLOCK = re.compile(r'layer(\d)\.(\d+)\.')
_CONV_MODULE = re.compile(r'stem\.(\d)\.(conv|bn)\.')


def operators_in(net: nn.Module) -> dict[str, AttentionConv2d]:
    """Find the operators of a network.

    Args:
        net (nn.Module): any network.

    Returns:
        dict[str, AttentionConv2d]: by name.
    """
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, AttentionConv2d)
    }


def current_names(
    state: dict[str, Tensor], net: nn.Module
) -> dict[str, Tensor]:
    """Write the names of older versions of mmrfa as they are now.

    The weight of an operator was ``NAME.conv.weight``; it is ``NAME.weight``,
    as that of the convolution replaced.

    Args:
        state (dict[str, Tensor]): parameters and buffers by name.
        net (nn.Module): the network that they are for.

    Returns:
        dict[str, Tensor]: the same values.
    """
    own = net.state_dict().keys()
    new = {
        f'{name}.conv.{leaf}': f'{name}.{leaf}'
        for name in operators_in(net)
        for leaf in ('weight', 'bias')
    }
    return {
        key if key in own else new.get(key, key): value
        for key, value in state.items()
    }


def find_depth(names: Iterable[str], source: str) -> int:
    """Find the depth by the number of blocks of each stage.

    Args:
        names (Iterable[str]): of the parameters, without prefix.
        source (str): where they come from, for the error message.

    Returns:
        int: 18, 34, 50, 101 or 152.

    Raises:
        InputError: no ResNet of these depths.
    """
    names = list(names)
    blocks = {m.groups() for key in names if (m := BLOCK.match(key))}
    counts = tuple(
        sum(stage == str(number) for stage, _ in blocks)
        for number in range(1, 5)
    )
    deep = any(key.startswith('layer1.0.conv3.') for key in names)
    kind = 'Bottleneck' if deep else 'BasicBlock'
    if (kind, counts) not in DEPTHS:
        raise InputError(
            f'checkpoint {source}: expected the stages of a ResNet-18 (2, 2, '
            f'2, 2 blocks), -34, -50, -101 or -152, got {counts} blocks'
        )
    return DEPTHS[kind, counts]


def find_prefix(state: dict[str, Tensor], source: str) -> str:
    """Find what stands before the names of the backbone.

    Args:
        state (dict[str, Tensor]): parameters of a ResNet, or of a network
            with one in it.
        source (str): where they come from, for the error message.

    Returns:
        str: for instance '' (torchvision) or 'backbone.'.

    Raises:
        InputError: no ResNet in it, or several.
    """
    heads = {
        key.partition('layer1.0.')[0] for key in state if 'layer1.0.' in key
    }
    found = sorted(head for head in heads if not head or head.endswith('.'))
    if len(found) != 1:
        raise InputError(
            f'checkpoint {source}: expected the names of one ResNet '
            '(layer1.0. ...), found '
            + (
                f'them behind {", ".join(map(repr, found))}'
                if found
                else f'none (first name: {next(iter(state))!r})'
            )
        )
    return found[0]


def plain_names(state: dict[str, Tensor], prefix: str) -> dict[str, str]:
    """Translate the names of a backbone.

    Args:
        state (dict[str, Tensor]): names of torchvision, MMSegmentation,
            MMDetection or MMPretrain (which numbers the stem of V1c in
            another way).
        prefix (str): what stands before them.

    Returns:
        dict[str, str]: our name by the name in ``state``, of the backbone
        only.
    """
    names = {}
    for key in state:
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        module = _CONV_MODULE.match(name)
        if module:
            index = 3 * int(module[1]) + (module[2] == 'bn')
            name = f'stem.{index}.{name[module.end() :]}'
        if name.startswith(('conv1.', 'bn1.', 'gn1.', 'stem.', 'layer')):
            names[key] = name
    return names
