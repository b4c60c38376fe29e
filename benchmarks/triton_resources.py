"""Compile the Triton kernels without a GPU and list what each one takes.

    python benchmarks/triton_resources.py

compiles each kernel of ``mmrfa/ops/primitives/gpu`` with every tile to machine
code for sm_80 and sm_90, refuses spilled registers, and writes
``benchmarks/results/triton_resources.md`` and ``.json``: 3x3 with stride 1 in
every data type and for both targets; other kernel sizes, strides, a number of
channels that nothing divides, and offsets of 63 bits (WIDE) in one of the six.
``--all`` takes all six everywhere, ``--sample`` one for each kernel and tile.
The kernels are recorded from the operators on tensors without memory, so that
arguments are specialised as on a GPU. Needs Linux and triton, which brings
NVIDIA's assembler.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch
from zlib import crc32

import torch
from report import table

from mmrfa.ops.common.taps import Conv
from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives import gpu
from mmrfa.ops.primitives.gpu import conv, features, launch, moments

ARCHS = (80, 90)
TYPES = {
    torch.float32: '*fp32',
    torch.float16: '*fp16',
    torch.bfloat16: '*bf16',
}
OTHERS = {torch.float64: '*fp64', torch.int32: '*i32'}
RESULTS = Path(__file__).parent / 'results/triton_resources'
# Kernel, stride, padding, dilation; channels and outputs
GEOMETRIES = [(3, 1, 1, 1), (3, 2, 2, 2), (5, 1, 2, 1), (7, 1, 3, 1)]
CASES = [(geometry, 64, 64) for geometry in GEOMETRIES]
# Neither whole tiles nor loads of several values; with a bias.
ODD = (GEOMETRIES[0], 41, 70)


def recorded(case: tuple, dtype: torch.dtype, last: bool) -> dict:
    """The kernels that the operators start, with their arguments.

    Args:
        case (tuple): one of CASES.
        dtype (torch.dtype): of the input.
        last (bool): whether the channels lie last.

    Returns:
        dict: arguments by (kernel, variant), of features in every form,
        moments, the whole of RFAConv where it takes such an input, and the
        backward of each.
    """
    found = {}
    geometry, channels, outputs = case
    geometry = [[value, value] for value in geometry]
    window = Window(*geometry)
    taps = window.taps
    size = 56 if case != ODD else 57
    x = torch.empty(32, channels, size, size, dtype=dtype, device='meta')
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    shift = torch.empty(channels, taps, device='meta')
    weight = torch.empty(channels, taps, taps, device='meta')
    matrix = torch.empty(outputs, channels, *geometry[0], device='meta')
    bias = torch.empty(outputs, device='meta') if case == ODD else None
    last_sum = Conv(matrix, bias)

    def record(kernel: str, arguments: dict) -> None:
        arguments = arguments | dict(bits=17)
        found[kernel, variant(arguments)] = arguments

    with patch.object(launch, 'start', record):
        for gain, unfold in ((None, False), (shift, False), (None, True)):
            of = features.Features(x, weight, shift, window, gain, unfold)
            features.gradients(of, features.weighted(of))
        mean, covariance = moments.rf_exact_moments(x, weight, 1e-5, *geometry)
        moments.rf_moments_backward(mean, covariance, x, mean, *geometry)
        of = features.Features(x, weight, shift, window, shift)
        if last and 'chip' in conv.ways(of, last_sum):
            out = conv._forward('chip', of, last_sum, [])
            conv._backward('chip', of, last_sum, [], out)
    return found


def variant(arguments: dict) -> str:
    """What a kernel was specialised for."""
    flags = [
        k for k in ('ATTEND', 'UNFOLD', 'FROM_X', 'WIDE') if arguments.get(k)
    ]
    return ', '.join(flags)


def compiled(kernel: str, arguments: dict, tile: dict, arch: int) -> dict:
    """Compile one kernel for one tile.

    Returns:
        dict: registers a thread, bytes spilled, bytes of shared memory.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmrfa.ops.primitives.gpu.kernels.tiles import OPTIONS

    function = launch.kernels()[kernel].run
    signature, constants, attributes = {}, {}, {}
    values = arguments | {k: v for k, v in tile.items() if k not in OPTIONS}
    assert values.keys() == set(function.arg_names), kernel
    for place, name in enumerate(function.arg_names):
        value = values[name]
        parameter = function.params[place]
        if isinstance(value, torch.Tensor):
            signature[name] = (TYPES | OTHERS)[value.dtype]
            attributes[(place,)] = [['tt.divisibility', 16]]
        elif parameter.is_constexpr or value is None or value == 1:
            signature[name] = 'constexpr'
            constants[name] = value
        else:
            signature[name] = 'i32' if value < 2**31 else 'i64'
            if value % 16 == 0 and not parameter.do_not_specialize:
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
            options={k: tile[k] for k in OPTIONS},
        )
    assert binary.asm['cubin']
    log = log.getvalue()
    spilled = re.search(r'(\d+) bytes spill stores, (\d+) bytes', log)
    return dict(
        registers=int(re.search(r'Used (\d+) registers', log)[1]),
        spilled=int(spilled[1]) + int(spilled[2]),
        shared=binary.metadata.shared,
    )


def drawn(grid: list, *what: object) -> object:
    """One of the grid, the same as long as ``what`` is."""
    return grid[crc32(repr(what).encode()) % len(grid)]


def jobs(extent: str | None) -> list[tuple]:
    """What to compile: ``'all'``, a ``'sample'`` or what lies between."""
    cases = CASES + [ODD]
    if extent == 'sample':
        cases = [CASES[0], CASES[-1]]
    found = []
    for case, last in product(cases, (True, False)):
        by_type = {d: recorded(case, d, last) for d in TYPES}
        every = extent == 'all' or (extent is None and case == CASES[0])
        for kernel, what in by_type[torch.bfloat16]:
            grid = [
                (by_type[dtype][kernel, what], arch)
                for dtype, arch in product(TYPES, ARCHS)
                if (kernel, what) in by_type[dtype]
            ]
            taps = case[0][0] ** 2
            tiles = launch.kernels()[kernel].configs
            for tile in tiles(last, taps, plain=case != ODD):
                chosen = grid if every else [drawn(grid, kernel, what, tile)]
                found += [(kernel, *one, tile) for one in chosen]
            if case != CASES[0] or extent == 'sample':
                continue
            for tile in tiles(last, taps, plain=False):
                arguments, arch = drawn(grid, kernel, what, tile)
                wide = arguments | dict(WIDE=True)
                found.append((kernel, wide, arch, tile))
    return found


def rows(extent: str | None, share: tuple[int, int] = (0, 1)) -> list[dict]:
    """Compile one share of the jobs, in the order of all."""
    found = []
    for kernel, arguments, arch, tile in jobs(extent)[share[0] :: share[1]]:
        x = arguments['x']
        last = launch.channels_last(x)
        found.append(
            dict(
                kernel=kernel,
                variant=variant(arguments),
                channels=arguments['CHANNELS'],
                taps=arguments['KH'] * arguments['KW'],
                stride=arguments['SH'],
                layout='last' if last else 'first',
                dtype=str(x.dtype).partition('.')[2],
                tile=[
                    tile[f'BLOCK_{axis}']
                    for axis in 'PCO'
                    if tile.get(f'BLOCK_{axis}', 1) > 1 or axis != 'O'
                ],
                warps=tile['num_warps'],
                arch=f'sm_{arch}',
                **compiled(kernel, arguments, tile, arch),
            )
        )
    return found


def all_rows(extent: str | None) -> list[dict]:
    """The same on every core."""
    number = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(number, get_context('spawn')) as pool:
        shares = list(
            pool.map(
                rows, [extent] * number, [(i, number) for i in range(number)]
            )
        )
    found = [None] * sum(map(len, shares))
    for i, share in enumerate(shares):
        found[i::number] = share
    return found


def tables(results: dict) -> list[str]:
    """Markdown: ranges over data types and strides, a line per tile."""
    lines = [
        f'# Registers and shared memory, {results["date"]}',
        '',
        f'Compiled ahead of time by triton {results["triton"]}; no GPU was '
        f'used. {len(results["kernels"])} binaries, spilled bytes in all: '
        f'{sum(row["spilled"] for row in results["kernels"])}. Ranges are '
        'over data types and strides. Tiles are positions x channels, and x '
        'outputs in a matrix product; shared memory in bytes a program.',
        '',
    ]
    groups = {}
    for row in results['kernels']:
        names = 'kernel', 'variant', 'channels', 'taps', 'layout'
        tile = ' x '.join(map(str, row['tile']))
        key = (*(row[n] for n in names), tile, row['warps'])
        groups.setdefault((*key, row['arch']), []).append(row)

    def spread(members: list[dict], name: str) -> str:
        values = sorted({row[name] for row in members})
        return '-'.join(map(str, dict.fromkeys((values[0], values[-1]))))

    head = ['kernel', 'variant', 'channels', 'taps', 'channels lie', 'tile']
    head += ['warps', 'target', 'registers', 'spilled', 'shared']
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
    if gpu.unavailable():
        sys.exit(f'error: kernels for GPUs: {gpu.unavailable()}')
    if launch.interpreted():
        sys.exit('error: TRITON_INTERPRET is set: nothing is compiled')
    import triton

    results = dict(
        date=str(date.today()),
        triton=triton.__version__,
        kernels=all_rows(args.extent),
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
