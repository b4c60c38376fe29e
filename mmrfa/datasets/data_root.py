"""Check that the data a config names are there, before a run starts."""

import os
from collections.abc import Iterator, Sequence

from mmrfa.errors import InputError

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def check_data_roots(cfg: dict, loaders: Sequence[str] = LOADERS) -> None:
    """Name the first folder or file of the data that is missing.

    Looks at ``data_root``, ``data_prefix`` and ``ann_file`` of every data
    set, also inside ConcatDataset, RepeatDataset and the like. Addresses
    such as ``s3://...`` are left to their backend.

    Args:
        cfg (dict): a whole config.
        loaders (Sequence[str]): the data loaders to look at. Defaults to all.

    Raises:
        InputError: says what is missing and how to lay the data out.
    """
    for loader in loaders:
        for dataset in leaves((cfg.get(loader) or {}).get('dataset')):
            for key in 'data_root', 'ann_file':
                value = dataset.get(key)
                if not isinstance(value, str | os.PathLike | None):
                    raise InputError(
                        f'{loader}.dataset.{key}: expected a path, got '
                        f'{value!r}'
                    )
            root = dataset.get('data_root') or ''
            needed = [path for path in _paths(dataset) if '://' not in path]
            paths = [os.path.join(root, path) for path in needed]
            # The root first: it says more than a folder inside it.
            for path in [root, *paths] if '://' not in root else []:
                if path and not os.path.exists(path):
                    raise InputError(
                        f'{loader}: expected data at {os.path.abspath(path)}'
                        f', got no such file or folder; {_layout(paths)}'
                    )
            listed = os.path.join(root, dataset.get('ann_file') or '')
            if dataset.get('ann_file') and os.path.isdir(listed):
                # mmseg would take every image there is.
                raise InputError(
                    f'{loader}: expected a file as ann_file, got the folder '
                    f'{os.path.abspath(listed)}'
                )


def leaves(node: object) -> Iterator[dict]:
    """Yield the data sets at the bottom of nested wrappers."""
    if isinstance(node, Sequence) and not isinstance(node, str):
        for child in node:
            yield from leaves(child)
    elif isinstance(node, dict):
        inner = [node[key] for key in ('dataset', 'datasets') if key in node]
        if not inner:
            yield node
        for child in inner:
            yield from leaves(child)


def _paths(dataset: dict) -> Iterator[str]:
    """Folders and list of a data set, relative to its root."""
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):  # of mmpretrain
        prefixes = dict(img_path=prefixes)
    for key, prefix in prefixes.items():
        if key == 'sub_data_root':  # mmdet's VOCDataset
            yield os.path.join(prefix, 'JPEGImages')
            yield os.path.join(prefix, 'Annotations')
        elif prefix:
            yield prefix
    if dataset.get('ann_file'):
        yield dataset['ann_file']


def _layout(paths: list[str]) -> str:
    base = os.environ.get('MMRFA_DATA_ROOT', 'data')
    needed = [os.path.relpath(path, base) for path in paths]
    if any(path.startswith(os.pardir) for path in needed):  # not below it
        return f'the config needs {", ".join(paths)}'
    return (
        f'the folder MMRFA_DATA_ROOT (now {base!r}) must hold '
        f'{", ".join(needed)}'
    )
