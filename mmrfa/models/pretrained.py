"""Starting a backbone from a checkpoint, with a report of what was filled."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from urllib.error import URLError

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmrfa.convert.plain import fill_from_plain
from mmrfa.errors import InputError
from mmrfa.utils.checkpoint import load_checkpoint_file, state_dict_of

# Kinds of init_cfg: names as they are, and an ordinary ResNet's converted.
PRETRAINED = ('Pretrained', 'PretrainedResNet')
FROM_SCRATCH = '--cfg-options model.backbone.init_cfg=None'
FROM_FILE = '--cfg-options model.backbone.init_cfg.checkpoint=FILE'


@contextmanager
def _weights_only() -> Iterator[None]:
    """Keep ``torch.load`` from running code in a downloaded file."""
    name = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(name)
    os.environ[name] = '1'
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def fetch_weights(
    checkpoint: str, prefix: str | None = None
) -> dict[str, Tensor]:
    """Read the parameters behind a name.

    Args:
        checkpoint (str): a local file, or a name with a scheme that MMEngine
            knows, such as ``open-mmlab://resnet50_v1c``.
        prefix (str | None): take only the names that begin so, without it,
            for instance ``backbone.``. Defaults to None.

    Returns:
        dict[str, Tensor]: parameters and buffers by name, on the CPU.

    Raises:
        InputError: not there, cannot be fetched or read, or nothing under
            ``prefix``.
    """
    if '://' in checkpoint:
        try:
            with _weights_only():
                content = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
        except UnpicklingError:
            raise InputError(
                f'pretrained weights {checkpoint}: expected tensors and plain '
                'values only, refused to run code from the file'
            ) from None
        except (URLError, OSError, KeyError, ImportError) as error:
            raise InputError(
                f'pretrained weights {checkpoint}: cannot be fetched '
                f'({error}); give a local file with {FROM_FILE}, or train '
                f'from scratch with {FROM_SCRATCH}'
            ) from None
    else:
        content = load_checkpoint_file(checkpoint)
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


def fill(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load what fits and log what was filled, left alone and not used.

    Args:
        module (nn.Module): the network to fill.
        state (dict[str, Tensor]): parameters and buffers by name.
        source (str): where they come from, for the log.

    Raises:
        InputError: not a single name and shape fits.
    """
    own = module.state_dict()
    fits = {
        key: value
        for key, value in state.items()
        if key in own and own[key].shape == value.shape
    }
    if not fits:
        raise InputError(
            f'checkpoint {source}: expected weights for '
            f'{type(module).__name__}, no name and shape fits (its first '
            f'name: {next(iter(state))!r}, expected e.g. '
            f'{next(iter(own))!r})'
        )
    module.load_state_dict(fits, strict=False)
    reshaped = [k for k in state if k in own and k not in fits]
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
    if reshaped:
        lines.append(f'  other shape, not used: {_brief(reshaped)}')
    print_log('\n'.join(lines), logger='current')


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
            :func:`mmrfa.convert.plain.fill_from_plain`.
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
