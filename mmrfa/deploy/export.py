"""A network as a file that other programs run, kept only if it agrees."""

import json
import logging
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmrfa.checkpoints.writing import folder_aside
from mmrfa.deploy.description import INPUT, KEY
from mmrfa.deploy.exported import EXTRA, load_exported, need
from mmrfa.deploy.parts import Part, Program
from mmrfa.errors import InputError

# What may differ from PyTorch, relative to the largest value of an output.
TOLERANCE = 1e-4


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        suffix (str): of its name.
        write (Callable): ``write(part, images, file, text)``; text is the
            description as JSON.
    """

    suffix: str
    write: Callable[[Part, Tensor, Path, str], None]


def export(
    part: Part,
    description: dict,
    target: Path,
    to: str,
    size: tuple[int, int],
) -> dict[str, float]:
    """Export, compare with PyTorch at two other sizes, then put in place.

    Args:
        part (Part): of a network in eval mode.
        description (dict): what the file shall say of itself.
        target (Path): file to write; one that is there is replaced at the
            end.
        to (str): one of :data:`FORMATS`.
        size (tuple[int, int]): height and width, in pixels, of the images
            that are traced.

    Returns:
        dict[str, float]: by the shape of the images, the largest difference
        from PyTorch relative to the largest value.

    Raises:
        InputError: a package is missing, the network cannot be exported for
            any size, or the file differs by more than :data:`TOLERANCE`.
    """
    divisor = description['input']['size_divisor']
    height, width = (-(-side // divisor) * divisor for side in size)
    device = next(part.module.parameters()).device
    step = divisor if divisor > 1 else 19
    shapes = (1, 3, height + step, width), (3, 3, width, height)
    with folder_aside(target) as folder, torch.no_grad():
        file = folder / target.name
        images = _noise((2, 3, height, width), device)
        FORMATS[to].write(part, images, file, json.dumps(description))
        program = _trusted(file, device)
        return {
            'x'.join(map(str, shape)): _compare(
                part, program, _noise(shape, device), to
            )
            for shape in shapes
        }


def _trusted(file: Path, device: torch.device) -> Program:
    """Load what was just written here."""
    from unittest.mock import patch

    from mmrfa.checkpoints.reading import TRUST

    with patch.dict('os.environ', {TRUST: '1'}):
        return load_exported(file, device).program


def _noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Images as the network sees them, of mean 0 and deviation 1."""
    source = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=source).to(device)


def _compare(part: Part, program: Program, images: Tensor, to: str) -> float:
    shape = 'x'.join(map(str, images.shape))
    try:
        got = program(images)
    except Exception as error:  # the runtimes' errors share no class
        line = ' '.join(str(error).split())[:200]
        raise InputError(
            f'--to {to}: expected a program for any size, it fails at '
            f'{shape}: {line}'
        ) from error
    error = difference(got, part.module(images))
    if not error <= TOLERANCE:  # nor NaN
        raise InputError(
            f'--to {to}: expected at most {TOLERANCE} of difference from '
            f'PyTorch, relative to the largest value, got {error:.1e} at '
            f'{shape}; nothing was kept'
        )
    return error


def difference(got: list[Tensor], wanted: tuple[Tensor, ...]) -> float:
    """The largest difference relative to the largest value of each output.

    Args:
        got (list[Tensor]): of a program.
        wanted (tuple[Tensor, ...]): of the network.

    Returns:
        float: infinite where numbers or shapes of the outputs differ.
    """
    if [y.shape for y in got] != [y.shape for y in wanted]:
        return float('inf')
    each = [
        (one.to(other.device) - other).abs().max() / other.abs().max()
        for one, other in zip(got, wanted)
    ]
    return torch.stack(each).max().item()


def _free_sizes() -> tuple:
    auto = torch.export.Dim.AUTO
    return ({0: torch.export.Dim.DYNAMIC, 2: auto, 3: auto},)


def _traced(module: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(
            module, (images,), dynamic_shapes=_free_sizes()
        )
    except Exception as error:  # torch's exporters raise many kinds
        raise _not_exported(module, error) from error


def _not_exported(module: nn.Module, error: Exception) -> InputError:
    line = ' '.join(str(error).split())[:300]
    return InputError(
        f'{type(module.network).__name__}: cannot be exported for any size: '
        f'{line}'
    )


def _to_torch(part: Part, images: Tensor, file: Path, text: str) -> None:
    # Into memory: of a full disk torch's writer says something else.
    whole = BytesIO()
    torch.export.save(
        _traced(part.module, images), whole, extra_files={EXTRA: text}
    )
    file.write_bytes(whole.getbuffer())


def _to_aoti(part: Part, images: Tensor, file: Path, text: str) -> None:
    import torch._inductor as inductor

    program = _traced(part.module, images)
    try:
        inductor.aoti_compile_and_package(
            program,
            package_path=str(file),
            inductor_configs={'aot_inductor.metadata': {KEY: text}},
        )
    except OSError:
        raise
    except Exception as error:  # no compiler, or one that fails
        line = ' '.join(str(error).split())[:300]
        raise InputError(
            f'--to aoti: cannot be compiled here: {line}'
        ) from error


def _to_onnx(part: Part, images: Tensor, file: Path, text: str) -> None:
    need('onnxscript', 'onnx')
    need('onnxruntime', 'onnx')
    # It warns that torchvision, which no network here uses, is missing.
    log = 'torch.onnx._internal.exporter._registration'
    logging.getLogger(log).setLevel(logging.ERROR)
    try:
        program = torch.onnx.export(
            part.module,
            (images,),
            dynamo=True,
            dynamic_shapes=_free_sizes(),
            input_names=[INPUT],
            output_names=part.outputs,
            verbose=False,
        )
    except Exception as error:  # torch's exporters raise many kinds
        raise _not_exported(part.module, error) from error
    program.model.metadata_props[KEY] = text
    program.save(file, external_data=False)


def _to_openvino(part: Part, images: Tensor, file: Path, text: str) -> None:
    need('openvino', 'openvino')
    import openvino

    onnx = file.with_suffix('.onnx')
    _to_onnx(part, images, onnx, text)
    # Not convert_model, which reports its use to OpenVINO's makers.
    network = openvino.Core().read_model(onnx)
    onnx.unlink()
    network.set_rt_info(text, KEY)
    openvino.save_model(network, file, compress_to_fp16=False)


FORMATS = {
    'onnx': Format('.onnx', _to_onnx),
    'torch_export': Format('.pt2', _to_torch),
    'aoti': Format('.pt2', _to_aoti),
    'openvino': Format('.xml', _to_openvino),
}
