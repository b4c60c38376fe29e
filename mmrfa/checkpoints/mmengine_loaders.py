"""MMEngine reads checkpoints with our reader, wherever they come from."""

import os
from io import BytesIO
from urllib.parse import urlparse

import torch

from mmrfa.checkpoints.formats import Location
from mmrfa.checkpoints.reading import load_checkpoint, load_checkpoint_file
from mmrfa.errors import InputError


class ReadAhead:
    """Reads local checkpoints; what the checks of a run read, only once.

    MMEngine's own reader falls back to running the code in a file when the
    safe way fails.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict] = {}

    def keep(self, path: str) -> dict:
        """Read a file and give it out again at the next reading of it."""
        if path not in self._kept:
            self.hold(path, load_checkpoint_file(path))
        return self._kept[path]

    def hold(self, path: str, content: dict) -> None:
        """Give out what was read already."""
        self._kept[path] = content

    def load_from_local(
        self, filename: str, map_location: Location = None
    ) -> dict:
        """Read a file; the signature is that of MMEngine's loaders."""
        if filename in self._kept:
            return self._kept.pop(filename)
        return load_checkpoint_file(filename, map_location)


def load_safely_everywhere() -> ReadAhead:
    """Make MMEngine read every checkpoint with our reader.

    Local files, addresses (also those behind ``torchvision://`` and
    ``open-mmlab://``) and S3. ``pavi://`` is left out: nobody has its client.

    Returns:
        ReadAhead: the reader of local files from now on.
    """
    from mmengine.runner import CheckpointLoader, checkpoint

    reader = ReadAhead()
    for prefixes, loader in (
        ('', reader.load_from_local),
        (['open-mmlab://', 'openmmlab://'], load_from_openmmlab),
        ([r'(\S+\:)?s3://', r'(\S+\:)?petrel://'], load_from_ceph),
        ('pavi://', load_from_pavi),
    ):
        CheckpointLoader.register_scheme(prefixes, loader, force=True)
    # What the loaders of addresses call.
    checkpoint.load_url = load_url
    return reader


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location: Location = None,
    progress: bool = True,
    **_: object,
) -> dict:
    """Fetch a file once and read it; as ``torch.hub`` does, but safely.

    Args:
        url (str): address.
        model_dir (str | None): where files are kept; None is torch's place.
        map_location (str | device | dict | Callable | None): where the
            tensors go.
        progress (bool): whether to show a bar. Defaults to True.

    Returns:
        dict: what the file holds.
    """
    folder = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, os.path.basename(urlparse(url).path))
    if not os.path.exists(path):
        torch.hub.download_url_to_file(url, path, progress=progress)
    return load_checkpoint_file(path, map_location)


def load_from_openmmlab(filename: str, map_location: Location = None) -> dict:
    """Read ``open-mmlab://NAME`` through MMEngine's table of names."""
    from mmengine.runner import CheckpointLoader
    from mmengine.runner import checkpoint as mm

    name = filename.partition('://')[2]
    name = mm.get_deprecated_model_names().get(name, name)
    place = mm.get_external_models()[name]
    if '://' not in place:
        place = os.path.join(mm._get_mmengine_home(), place)
    return CheckpointLoader.load_checkpoint(place, map_location)


def load_from_ceph(filename: str, map_location: Location = None) -> dict:
    """Read from S3, with the client that MMEngine uses."""
    from mmengine.fileio import get_file_backend

    backend = get_file_backend(filename, backend_args=dict(backend='petrel'))
    data = BytesIO(backend.get(filename))
    return load_checkpoint(data, filename, map_location)


def load_from_pavi(filename: str, map_location: Location = None) -> dict:
    """Refuse what MMEngine would read unsafely."""
    raise InputError(f'checkpoint {filename}: expected a file or an address')
