"""A network and its weights, ready to look at images."""

import hashlib
import json
from typing import TYPE_CHECKING

from mmrfa.checkpoints.fit import check_fits
from mmrfa.checkpoints.reading import load_checkpoint_file
from mmrfa.engine.config import import_scope
from mmrfa.engine.naming import naming
from mmrfa.engine.run import build_model
from mmrfa.engine.settings import check_settings
from mmrfa.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import device, nn

DATASET = 'test_dataloader.dataset'
# What may differ between two configs of one network.
_FREE = ('train_cfg', 'test_cfg', 'init_cfg', 'pretrained')


def checked_device(name: str | None) -> 'device':
    """Find a device.

    Args:
        name (str | None): as torch names it, 'cpu' or 'cuda:1'. None: a GPU
            where there is one.

    Raises:
        InputError: no such device here.
    """
    import torch

    if name is None:
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        torch.zeros(1, device=name).item()  # some hold no numbers
    except (RuntimeError, AssertionError) as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(f'--device {name}: cannot be used: {line}') from error
    return torch.device(name)


def build_network(config: 'Config') -> 'nn.Module':
    """Build the network of a config, in eval mode, with random weights.

    Args:
        config (Config): of the run.

    Returns:
        nn.Module: with ``dataset_meta``, the ``classes`` and, where they are
        known, the colours (``palette``) of its data, and ``fingerprint``.

    Raises:
        InputError: something in the config.
    """
    import_scope(config)
    check_settings(config)
    model = build_model(config).eval()
    model.fingerprint = fingerprint(config)
    model.dataset_meta = dataset_meta(config)
    return model


def load_network(config: 'Config', checkpoint: str) -> 'nn.Module':
    """Build the network of a config and fill it from a checkpoint.

    Args:
        config (Config): of the run.
        checkpoint (str): file.

    Returns:
        nn.Module: on the CPU, as of :func:`build_network`; what the
        checkpoint says of classes goes before what the config says.

    Raises:
        InputError: something in the config, or a checkpoint that cannot be
            read or is of another network.
    """
    content = load_checkpoint_file(checkpoint)
    model = build_network(config)
    check_fits(content, model, checkpoint)
    meta = content.get('meta')
    saved = meta.get('dataset_meta') if isinstance(meta, dict) else None
    if isinstance(saved, dict):
        model.dataset_meta |= {
            key: saved[key]
            for key in ('classes', 'palette')
            if isinstance(saved.get(key), list | tuple)
        }
    return model


def network_of(config: 'Config', checkpoint: str) -> 'nn.Module':
    """As :func:`load_network`; ``'none'`` stands for random weights."""
    if checkpoint == 'none':
        return build_network(config)
    return load_network(config, checkpoint)


def fingerprint(config: 'Config') -> str:
    """A hash of the network that a config describes.

    Args:
        config (Config): what only says how to train, test or start does not
            count.
    """

    def plain(node: object) -> object:
        if isinstance(node, dict):
            kept = (key for key in sorted(node, key=str) if key not in _FREE)
            return {str(key): plain(node[key]) for key in kept}
        if isinstance(node, list | tuple):
            return [plain(part) for part in node]
        return node

    text = json.dumps(plain(config.get('model')), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def dataset_meta(config: 'Config') -> dict:
    """Names and colours of the classes of the test data.

    Args:
        config (Config): its packages are imported.

    Returns:
        dict: of ``classes`` (list[str]) and ``palette`` (list[list[int]], RGB
        0 to 255) what the config or its data set knows.

    Raises:
        InputError: in the config, something else.
    """
    from mmengine.fileio import list_from_file
    from mmengine.registry import DATASETS

    dataset = test_dataset(config)
    kind = DATASETS.get(str(dataset.get('type')))
    meta = dict(getattr(kind, 'METAINFO', {}))
    with naming(config, f'{DATASET}.metainfo', 'cannot be read'):
        meta.update(dataset.get('metainfo') or {})
        classes = meta.get('classes')
        if isinstance(classes, str):  # a file with a name on each line
            meta['classes'] = list_from_file(classes)
        elif not isinstance(classes, list | tuple | None):
            raise TypeError(f'classes: expected a list, got {classes!r}')
    return {k: meta[k] for k in ('classes', 'palette') if meta.get(k)}


def test_dataset(config: 'Config') -> dict:
    """The test data set of a config, out of its wrappers; {} if none."""
    with naming(config, DATASET, 'cannot be read'):
        dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
        while 'dataset' in dataset or 'datasets' in dataset:
            dataset = dataset.get('dataset') or dataset['datasets'][0]
        dataset.keys()  # of a dict
        return dataset
