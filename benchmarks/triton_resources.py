"""Compile the Triton kernels without a GPU and list what each one takes.

    python benchmarks/triton_resources.py

compiles every kernel with every tile of ``mmrfa/ops/triton_configs.py`` to
machine code for sm_80 and sm_90, refuses spilled registers, and writes
``benchmarks/results/triton_resources.md`` and ``.json``. The kernels are
recorded from the operators of ``mmrfa/ops/triton_ops.py`` on tensors without
memory, with the shapes of a ResNet-18, so arguments are specialised as on a
GPU. Needs Linux and triton, which brings NVIDIA's assembler.
"""

import argparse
import contextlib
import io
import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from unittest.mock import patch

import torch
from report import table

from mmrfa.ops import triton_ops
from mmrfa.ops.triton_configs import configs

ARCHS = (80, 90)
TYPES = {
    torch.float32: '*fp32',
    torch.float16: '*fp16',
    torch.bfloat16: '*bf16',
}
RESULTS = Path(__file__).parent / 'results/triton_resources'
# Kernel, stride, padding, dilation
GEOMETRIES = [(3, 1, 1, 1), (3, 2, 2, 2), (5, 1, 2, 1), (7, 1, 3, 1)]


def recorded(geometry: tuple, dtype: torch.dtype, last: bool) -> list:
    """The kernels that one operator starts, with their arguments.

    Args:
        geometry (tuple): kernel, stride, padding and dilation, in pixels.
        dtype (torch.dtype): of the input.
        last (bool): whether the channels lie last.

    Returns:
        list: (kernel, arguments) for features with and without attention,
        moments, and the backward of each.
    """
    found = []
    geometry = [[value, value] for value in geometry]
    taps = geometry[0][0] ** 2
    x = torch.empty(32, 64, 56, 56, dtype=dtype, device='meta')
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    shift = torch.empty(64, taps, device='meta')
    weight = torch.empty(64, taps, taps, device='meta')

    def record(kernel: str, arguments: dict) -> None:
        found.append((kernel, arguments))

    with patch.object(triton_ops, 'start', record):
        for gain in (None, shift):
            inputs = (x, gain, weight, shift, *geometry)
            y = triton_ops.features(*inputs)
            triton_ops.features_backward(y, *inputs)
        moments = triton_ops.moments(x, *geometry)
        wide = [moment.double() for moment in reversed(moments)]
        triton_ops.moments_backward(*reversed(wide), x, moments[0], *geometry)
    return found


def compiled(kernel: str, arguments: dict, tile: dict, arch: int) -> dict:
    """Compile one kernel for one tile.

    Returns:
        dict: registers a thread, bytes spilled, bytes of shared memory.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(triton_ops.kernels(), kernel)
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(function.arg_names):
        value = {**arguments, **tile}[name]
        constant = function.params[place].is_constexpr
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(place,)] = [['tt.divisibility', 16]]
        elif constant or value is None or value == 1:
            signature[name] = 'constexpr'
            constants[name] = value
        else:
            signature[name] = 'i32' if value < 2**31 else 'i64'
            if value % 16 == 0:
                attributes[(place,)] = [['tt.divisibility', 16]]
    log = io.StringIO()
    with (
        patch.object(triton.knobs.compilation, 'always_compile', True),
        patch.object(triton.knobs.nvidia, 'dump_ptxas_log', True),
        contextlib.redirect_stdout(log),
    ):
        binary = triton.compile(
            ASTSource(function, signature, constants, attributes),
            target=GPUTarget('cuda', arch, 32),
            options=dict(num_warps=tile['num_warps']),
        )
    assert binary.asm['cubin']
    log = log.getvalue()
    spilled = re.search(r'(\d+) bytes spill stores, (\d+) bytes', log)
    return dict(
        registers=int(re.search(r'Used (\d+) registers', log)[1]),
        spilled=int(spilled[1]) + int(spilled[2]),
        shared=binary.metadata.shared,
    )
