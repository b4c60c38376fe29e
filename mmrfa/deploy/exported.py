"""Exported files as programs: .onnx, .pt2 and .xml."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mmrfa.checkpoints.reading import TRUST
from mmrfa.deploy.description import KEY, check_same_network
from mmrfa.deploy.network import build_network, load_network
from mmrfa.deploy.parts import Program, part_of
from mmrfa.errors import InputError
from mmrfa.openmmlab import import_package

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import device, nn

# In the archive of torch.export.save.
EXTRA = f'{KEY}.json'


class Exported(NamedTuple):
    """A file that was exported, ready to run.

    Attributes:
        program (Callable): from normalised images (N, 3, H, W) to a list of
            tensors.
        description (dict): what the file says of itself.
    """

    program: Program
    description: dict


def load_any(config: 'Config', path: str, device: 'device') -> 'nn.Module':
    """Build the network of a config, and fill it from what there is.

    Args:
        config (Config): of the run.
        path (str): a checkpoint, or an exported file, which then does the
            work of the exported part.
        device (device): where to run.

    Returns:
        nn.Module: in eval mode, on the device.

    Raises:
        InputError: something in the config or in the file, or a program that
            is not all of the network.
    """
    if Path(path).suffix not in LOADERS:
        return load_network(config, path).to(device)
    program, description = load_exported(path, device)
    check_same_network(description, config, path)
    model = build_network(config).to(device)
    model.dataset_meta |= {
        key: description[key]
        for key in ('classes', 'palette')
        if key in description
    }
    part = part_of(model)
    if part.plug is None:
        raise InputError(
            f'{path}: expected a whole network, got the {part.task} of '
            f'{type(model).__name__}; predict with its checkpoint'
        )
    part.plug(lambda images: [y.to(device) for y in program(images)])
    return model


def load_exported(path: str | Path, device: 'device') -> Exported:
    """Load a file that ``tools/export.py`` wrote.

    Args:
        path (str | Path): .onnx, .pt2 or .xml.
        device (device): where to run.

    Returns:
        Exported: its program and description.

    Raises:
        InputError: no such file, another file, a package or an operator that
            is missing here, or compiled code that is not trusted.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'{path}: expected a file, found none')
    program, text = LOADERS[path.suffix](path, device)
    try:
        description = json.loads(text)
    except (TypeError, ValueError):
        description = None
    if not isinstance(description, dict):
        raise InputError(
            f'{path}: expected a file of tools/export.py, got one without '
            f'its description (metadata {KEY})'
        )
    return Exported(program, description)


def need(module: str, extra: str) -> None:
    """Import a package that an extra of ours brings.

    Args:
        module (str): of the package.
        extra (str): of our metadata.

    Raises:
        InputError: it is missing, or does not import.
    """
    try:
        import_package(module)
    except InputError as error:
        raise InputError(
            f'{error}, or install the extra: pip install "mmrfa[{extra}]"'
        ) from error


def _refused(path: Path, error: Exception) -> InputError:
    line = ' '.join(str(error).split())[:300]
    return InputError(f'{path}: cannot be loaded here: {line}')


def _onnx(path: Path, device: 'device') -> tuple[Program, str | None]:
    need('onnxruntime', 'onnx')
    import onnxruntime

    providers = ['CPUExecutionProvider']
    if device.type == 'cuda':
        providers.insert(0, 'CUDAExecutionProvider')
        if providers[0] not in onnxruntime.get_available_providers():
            raise InputError(
                f'--device {device}: expected onnxruntime with CUDA '
                '(pip install onnxruntime-gpu), got one without'
            )
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors come as exceptions, too
        session = onnxruntime.InferenceSession(path, options, providers)
    except Exception as error:  # its errors share no class
        raise _refused(path, error) from error
    (given,) = session.get_inputs()

    def program(images: Tensor) -> list[Tensor]:
        outputs = session.run(None, {given.name: images.cpu().numpy()})
        return [torch.from_numpy(output) for output in outputs]

    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    return program, text


def _torch(path: Path, device: 'device') -> tuple[Program, str | None]:
    try:
        names = zipfile.ZipFile(path).namelist()
    except zipfile.BadZipFile as error:
        raise _refused(path, error) from error
    compiled = any('aotinductor' in name for name in names)
    if os.environ.get(TRUST) != '1':
        # Machine code in the one, and torch unpickles parts of the other.
        raise InputError(
            f'{path}: a .pt2 file can hold code; if you trust its maker, '
            f'allow that with --trust-checkpoint or {TRUST}=1 (.onnx files '
            'hold none)'
        )
    load = _compiled if compiled else _program
    try:
        return load(path, device)
    except InputError:
        raise
    except Exception as error:  # foreign bytes raise anything
        raise _refused(path, error) from error


def _program(path: Path, device: 'device') -> tuple[Program, str]:
    extra = {EXTRA: ''}
    module = torch.export.load(path, extra_files=extra).module().to(device)

    def program(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(module(images))

    return program, extra[EXTRA]


def _compiled(path: Path, device: 'device') -> tuple[Program, str | None]:
    import torch._inductor as inductor

    package = inductor.aoti_load_package(str(path))
    metadata = package.get_metadata()
    made_for = metadata.get('AOTI_DEVICE_KEY', device.type)
    if made_for != device.type:
        raise InputError(
            f'{path}: expected code for {device.type}, got code for '
            f'{made_for}; choose that with --device'
        )
    return lambda images: list(package(images)), metadata.get(KEY)


def _openvino(path: Path, device: 'device') -> tuple[Program, str | None]:
    need('openvino', 'openvino')
    import openvino

    try:
        network = openvino.Core().read_model(path)
        # On CPUs that have units for bfloat16 it would compute in that.
        options = dict(INFERENCE_PRECISION_HINT='f32')
        compiled = openvino.compile_model(network, 'CPU', options)
    except RuntimeError as error:
        raise _refused(path, error) from error

    def program(images: Tensor) -> list[Tensor]:
        found = compiled(images.cpu().numpy())
        return [torch.from_numpy(output) for output in found.to_tuple()]

    known = network.has_rt_info(KEY)
    return program, network.get_rt_info(KEY).astype(str) if known else None


LOADERS: dict[str, Callable] = {
    '.onnx': _onnx,
    '.pt2': _torch,
    '.xml': _openvino,
}
