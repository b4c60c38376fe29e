"""Whether a network says the same in ONNX, at any size."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

# What may differ, relative to the largest value.
TOLERANCE = 1e-5


def assert_same_in_onnx(
    net: nn.Module,
    x: Tensor,
    others: Sequence[Tensor],
    folder: Path,
) -> None:
    """Export with dynamic batch, height and width, run by onnxruntime.

    Args:
        net (nn.Module): from images (N, C, H, W) to a tensor, or several.
        x (Tensor): what the export traces; at least two of everything.
        others (Sequence[Tensor]): images of other sizes.
        folder (Path): to write to.

    Raises:
        AssertionError: an output differs by more than :data:`TOLERANCE`,
            relative to its largest value.
    """
    import onnxruntime

    net = net.eval()
    file = folder / 'net.onnx'
    sizes = {0: 'batch', 2: 'height', 3: 'width'}
    shapes = {
        axis: torch.export.Dim.DYNAMIC if axis == 0 else torch.export.Dim.AUTO
        for axis in sizes
    }
    torch.onnx.export(
        net,
        (x,),
        file,
        dynamo=True,
        dynamic_shapes=(shapes,),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(
        file, providers=['CPUExecutionProvider']
    )
    (given,) = session.get_inputs()
    for image in (x, *others):
        got = session.run(None, {given.name: image.numpy()})
        with torch.no_grad():
            wanted = net(image)
        wanted = [wanted] if isinstance(wanted, Tensor) else list(wanted)
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted):
            error = (torch.from_numpy(one) - other).abs().max()
            scale = other.abs().max()
            assert error <= TOLERANCE * scale, (image.shape, error / scale)
