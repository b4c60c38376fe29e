"""Compile the Triton kernels without a GPU and list what each one takes.

    python benchmarks/triton_resources.py

compiles every kernel with every tile of ``mmrfa/ops/triton_configs.py`` to
machine code for sm_80 and sm_90, refuses spilled registers, and writes
``benchmarks/results/triton_resources.md`` and ``.json``: 3x3 with stride 1 in
every data type and for both targets, other sizes in one of the six after the
other (10 minutes on one core). ``--all`` takes all six everywhere,
``--sample`` one for each kernel and tile. The kernels are
recorded from the operators of ``mmrfa/ops/triton_ops.py`` on tensors without
memory, with the shapes of a ResNet-18, so arguments are specialised as on a
GPU; offsets are of 31 bits, those of 63 for larger tensors are left out. Needs
Linux and triton, which brings NVIDIA's assembler.
"""

import argparse
import contextlib
import io
import json
import re
import sys
from datetime import date
from itertools import product
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
    found = {}
    geometry = [[value, value] for value in geometry]
    taps = geometry[0][0] ** 2
    x = torch.empty(32, 64, 56, 56, dtype=dtype, device='meta')
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    shift = torch.empty(64, taps, device='meta')
    weight = torch.empty(64, taps, taps, device='meta')

    def record(kernel: str, arguments: dict) -> None:
        found[kernel, variant(arguments)] = kernel, arguments

    with patch.object(triton_ops, 'start', record):
        for gain in (None, shift):
            inputs = (x, gain, weight, shift, *geometry)
            y = triton_ops.features(*inputs)
            triton_ops.features_backward(y, *inputs)
        mean, covariance = triton_ops.moments(x, *geometry)
        triton_ops.moments_backward(mean, covariance, x, mean, *geometry)
    return list(found.values())


def variant(arguments: dict) -> str:
    """What a kernel was specialised for."""
    flags = [k for k in ('ATTEND', 'FROM_X') if arguments.get(k)]
    return ', '.join(flags)


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
            options={k: tile[k] for k in ('num_warps', 'maxnreg')},
        )
    assert binary.asm['cubin']
    log = log.getvalue()
    spilled = re.search(r'(\d+) bytes spill stores, (\d+) bytes', log)
    return dict(
        registers=int(re.search(r'Used (\d+) registers', log)[1]),
        spilled=int(spilled[1]) + int(spilled[2]),
        shared=binary.metadata.shared,
    )


def rows(extent: str | None) -> list[dict]:
    """Compile ``'all'``, a ``'sample'`` or what lies between."""
    found, turn = [], 0
    grid = list(product(TYPES, ARCHS))
    for geometry in GEOMETRIES:
        sampled = extent == 'sample'
        if sampled and geometry not in (GEOMETRIES[0], GEOMETRIES[-1]):
            continue
        sampled |= geometry != GEOMETRIES[0] and extent != 'all'
        for last in (True, False):
            taps = geometry[0] ** 2
            by_type = {
                dtype: recorded(geometry, dtype, last) for dtype in TYPES
            }
            for n, (kernel, arguments) in enumerate(by_type[torch.float32]):
                for tile in configs(kernel, last, taps):
                    turn += 1
                    chosen = [grid[turn % len(grid)]] if sampled else grid
                    for dtype, arch in chosen:
                        row = dict(
                            kernel=kernel,
                            variant=variant(arguments),
                            taps=taps,
                            stride=geometry[1],
                            layout='last' if last else 'first',
                            dtype=str(dtype).partition('.')[2],
                            tile=[tile['BLOCK_P'], tile['BLOCK_C']],
                            warps=tile['num_warps'],
                            arch=f'sm_{arch}',
                        )
                        arguments = by_type[dtype][n][1]
                        row |= compiled(kernel, arguments, tile, arch)
                        found.append(row)
    return found


def tables(results: dict) -> list[str]:
    """Markdown: ranges over data types and strides, a line per tile."""
    lines = [
        f'# Registers and shared memory, {results["date"]}',
        '',
        f'Compiled ahead of time by triton {results["triton"]}; no GPU was '
        f'used. {len(results["kernels"])} binaries, spilled bytes in all: '
        f'{sum(row["spilled"] for row in results["kernels"])}. Ranges are '
        'over data types and strides; shared memory in bytes a program.',
        '',
    ]
    groups = {}
    for row in results['kernels']:
        names = 'kernel', 'variant', 'taps', 'layout'
        key = (*(row[n] for n in names), *row['tile'], row['warps'])
        groups.setdefault((*key, row['arch']), []).append(row)

    def spread(members: list[dict], name: str) -> str:
        values = sorted({row[name] for row in members})
        return '-'.join(map(str, dict.fromkeys((values[0], values[-1]))))

    head = ['kernel', 'variant', 'taps', 'channels lie', 'positions']
    head += ['channels', 'warps', 'target', 'registers', 'spilled', 'shared']
    return lines + table(
        head,
        [
            [
                *key,
                *(spread(m, n) for n in ('registers', 'spilled', 'shared')),
            ]
            for key, m in groups.items()
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=RESULTS)
    for extent in ('all', 'sample'):
        parser.add_argument(
            f'--{extent}', dest='extent', action='store_const', const=extent
        )
    args = parser.parse_args()
    if triton_ops.unavailable():
        sys.exit(f'error: backend triton: {triton_ops.unavailable()}')
    if triton_ops.kernels().INTERPRETED:
        sys.exit('error: TRITON_INTERPRET is set: nothing is compiled')
    import triton

    results = dict(
        date=str(date.today()),
        triton=triton.__version__,
        kernels=rows(args.extent),
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=None).replace('{"kernel"', '\n{"kernel"')
    args.out.with_suffix('.json').write_text(text + '\n')
    args.out.with_suffix('.md').write_text('\n'.join(tables(results)) + '\n')
    spilling = [row for row in results['kernels'] if row['spilled']]
    for row in spilling:
        print(row, file=sys.stderr)
    if spilling:
        sys.exit(f'error: {len(spilling)} kernels spill registers')


if __name__ == '__main__':
    main()
