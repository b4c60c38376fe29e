"""Starting a backbone from a checkpoint, with a report of what was filled."""

from collections.abc import Callable
from urllib.error import URLError

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmrfa.checkpoints.names import current_names, operators_in
from mmrfa.checkpoints.reading import load_checkpoint_file, state_dict_of
from mmrfa.errors import InputError
from mmrfa.models.weights.plain import fill_from_plain

# Kinds of init_cfg: names as they are, and an ordinary ResNet's converted.
PRETRAINED = ('Pretrained', 'PretrainedResNet')
FROM_SCRATCH = '--cfg-options model.backbone.init_cfg=None'
FROM_FILE = '--cfg-options model.backbone.init_cfg.checkpoint=FILE'


def fetch_weights(
    checkpoint: str,
    prefix: str | None = None,
    read: Callable[[str], dict] = load_checkpoint_file,
) -> dict[str, Tensor]:
    """Read the parameters behind a name.

    Args:
        checkpoint (str): a local file, or a name with a scheme that MMEngine
            knows, such as ``open-mmlab://resnet50_v1c``.
        prefix (str | None): take only the names that begin so, without it,
            for instance ``backbone.``. Defaults to None.
        read (Callable): reads a local file.

    Returns:
        dict[str, Tensor]: parameters and buffers by name, on the CPU.

    Raises:
        InputError: not there, cannot be fetched or read, or nothing under
            ``prefix``.
    """
    if '://' in checkpoint:
        try:
            content = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
        except (URLError, OSError, KeyError, ImportError) as error:
            raise InputError(
                f'pretrained weights {checkpoint}: cannot be fetched '
                f'({error}); give a local file with {FROM_FILE}, or train '
                f'from scratch with {FROM_SCRATCH}'
            ) from None
    else:
        content = read(checkpoint)
    state = state_dict_of(content, checkpoint)
    if prefix is None:
        return state
    prefix = prefix.rstrip('.') + '.'
    part = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix)
    }
    if not part:
        raise InputError(
            f'checkpoint {checkpoint}: expected names that begin with '
            f'{prefix!r}, found none (first name: {next(iter(state))!r})'
        )
    return part


def pretrained_of(module: nn.Module) -> list[dict]:
    """Find what a module is to be filled from.

    Args:
        module (nn.Module): any, with an ``init_cfg`` or without.

    Returns:
        list[dict]: the parts of its ``init_cfg`` that name a checkpoint.
    """
    init = getattr(module, 'init_cfg', None)
    parts = init if isinstance(init, list | tuple) else [init]
    return [
        part
        for part in parts
        if isinstance(part, dict) and part.get('type') in PRETRAINED
    ]


def fill(module: nn.Module, state: dict[str, Tensor], source: str) -> set[str]:
    """Load what fits and log what was filled, left alone and not used.

    An operator is not filled from a plain convolution, whose weight has the
    same name and shape: what it computes would be something else.

    Args:
        module (nn.Module): the network to fill.
        state (dict[str, Tensor]): parameters and buffers by name.
        source (str): where they come from, for the log.

    Returns:
        set[str]: names that were left at their initial value.

    Raises:
        InputError: not a single name and shape fits.
    """
    state = current_names(state, module)
    own = module.state_dict()
    fits = {
        key: value
        for key, value in state.items()
        if key in own and own[key].shape == value.shape
    }
    plain = []
    for name in operators_in(module):
        sums = {f'{name}.weight', f'{name}.bias'}
        attention = {k for k in own if k.startswith(f'{name}.')} - sums
        if attention and not attention & state.keys():
            plain += [key for key in sums if fits.pop(key, None) is not None]
    if not fits:
        raise InputError(
            f'checkpoint {source}: expected weights for '
            f'{type(module).__name__}, no name and shape fits (its first '
            f'name: {next(iter(state))!r}, expected e.g. '
            f'{next(iter(own))!r})'
        )
    module.load_state_dict(fits, strict=False)
    reshaped = [k for k in state if k in own and k not in (*fits, *plain)]
    # Batch counters only matter for a momentum of None.
    left = [
        key
        for key in own
        if key not in fits and not key.endswith('num_batches_tracked')
    ]
    unused = [k for k in state if k not in own]
    lines = [
        f'{type(module).__name__} from {source}:',
        f'  filled: {len(fits)} of {len(own)} tensors',
        f'  left at their initial value: {_brief(left)}',
        f'  not used: {_brief(unused)}',
    ]
    if plain:
        lines.append(
            '  of plain convolutions, not used where an operator stands '
            "(init_cfg of type 'PretrainedResNet' starts from them): "
            + _brief(plain)
        )
    if reshaped:
        lines.append(f'  other shape, not used: {_brief(reshaped)}')
    print_log('\n'.join(lines), logger='current')
    return set(left)


def fill_converted(
    net: nn.Module, state: dict[str, Tensor], source: str
) -> None:
    """Start from an ordinary ResNet and log what became of its names.

    Args:
        net (nn.Module): the RFAResNet to fill.
        state (dict[str, Tensor]): parameters and buffers by name.
        source (str): where they come from, for the log.

    Raises:
        InputError: it does not fit, see
            :func:`mmrfa.models.weights.plain.fill_from_plain`.
    """
    report = fill_from_plain(net, state, source)
    lines = [
        f'{type(net).__name__} from the ordinary ResNet {source}:',
        f'  filled: {len(report.converted)} tensors',
        f'  set so that the features stay: {_brief(list(report.missing))}',
        f'  not used: {_brief(list(report.dropped))}',
    ]
    print_log('\n'.join(lines), logger='current')


def _brief(names: list[str], most: int = 6) -> str:
    """Modules instead of tensors, and no more than ``most`` of them."""
    modules = list(dict.fromkeys(name.rpartition('.')[0] for name in names))
    shown = ', '.join(modules[:most])
    more = f', ... ({len(modules)} modules)' if len(modules) > most else ''
    return f'{len(names)} tensors in {shown}{more}' if names else 'nothing'
