"""How the Triton kernels are started: strides, pieces, tuning.

Triton itself is imported at the first use.
"""

import threading
from collections.abc import Callable
from functools import cache
from statistics import median

import torch
from torch import Tensor

from mmrfa.ops.common.window import Window
from mmrfa.ops.primitives.gpu.rules import require

# A sum over positions is cut into pieces of a multiple of so many positions:
# of whole tiles, which are longer where the channels lie first.
SHORTEST_SPANS = {'first': 512, 'last': 128}
# Clock cycles, 4 ms and more: how long the device waits while the host starts
# what is timed.
WAITS = [8_000_000 << times for times in range(5)]
# Positions of a batch have 31 bits, those of the tiles behind the last too.
MOST_POSITIONS = 2**31 - 2**20
# A tuner keeps what it was called with on itself while it measures.
_TUNING = threading.RLock()


@cache
def kernels() -> dict:
    """Every ``kernels.tiles.Kernel`` by name; imports triton."""
    from mmrfa.ops.primitives.gpu import kernels

    return kernels.BY_NAME


def interpreted() -> bool:
    """Whether a CPU simulates the kernels."""
    from mmrfa.ops.primitives.gpu.kernels.parts import INTERPRETED

    return INTERPRETED.value


# Arguments ----------------------------------------------------------------


def channels_last(x: Tensor) -> bool:
    """Whether neighbouring threads take neighbouring channels."""
    return x.stride(1) == 1 and x.size(1) > 1


def is_wide(*tensors: Tensor) -> bool:
    """Whether an offset in one of the tensors may need more than 31 bits."""
    return any(
        sum((n - 1) * s for n, s in zip(t.shape, t.stride())) >= 2**31
        for t in tensors
    )


def planes(x: Tensor, count: int, window: Window) -> Tensor:
    """Uninitialised (N, C, count, Ho, Wo) in the layout of x.

    With channels last, the planes lie outside of the channels: neighbouring
    threads then write neighbouring values.
    """
    n, c = x.shape[:2]
    height, width = window.out_size(x)
    if channels_last(x):
        y = x.new_empty(n, height, width, count, c)
        return y.permute(0, 4, 3, 1, 2)
    return x.new_empty(n, c, count, height, width)


def last_channel(vectors: Tensor) -> Tensor:
    """(C, ...) as the kernels read it: (..., C), float32."""
    return vectors.movedim(0, -1).float().contiguous()


def common(x: Tensor, window: Window) -> dict:
    """The arguments that every kernel takes."""
    height, width = window.out_size(x)
    names = 'KH', 'KW', 'SH', 'SW', 'PH', 'PW', 'DH', 'DW'
    values = [value for pair in window for value in pair]
    return dict(
        x=x,
        CHANNELS=x.size(1),
        height=x.size(2),
        width=x.size(3),
        out_height=height,
        out_width=width,
        **strides('x', x),
        **dict(zip(names, values)),
    )


def strides(prefix: str, tensor: Tensor | None) -> dict[str, int]:
    """Arguments like xn, xc, xh, xw, and xt for the planes of five dims.

    Of a tensor that is not there, those of five dims, zero.
    """
    if tensor is None:
        return {prefix + axis: 0 for axis in 'ncthw'}
    axes = 'nchw' if tensor.dim() == 4 else 'ncthw'
    return {prefix + a: s for a, s in zip(axes, tensor.stride())}


def pieces(x: Tensor, positions: int, most: int) -> tuple[int, int]:
    """How a sum over positions is cut: length and number of the pieces."""
    shortest = SHORTEST_SPANS['last' if channels_last(x) else 'first']
    number = max(1, min(positions // shortest, most))
    span = -(-positions // number)
    span = max(1, -(-span // shortest)) * shortest  # whole tiles
    return span, -(-positions // span)


# Starting -----------------------------------------------------------------


def start(name: str, arguments: dict) -> None:
    """Run a kernel with the tile that is best.

    With the first one where nothing shall depend on a clock: which tile it is
    decides in which order sums are added up. Simulated, with a large one.
    """
    if not arguments['count']:  # an empty batch
        return
    require(
        arguments['count'] < MOST_POSITIONS,
        f'fewer than {MOST_POSITIONS} positions in a batch',
        arguments['count'],
    )
    x = arguments['x']
    taps = arguments['KH'] * arguments['KW']
    chosen = kernels()[name]
    last = channels_last(x) or chosen.first is None
    kind = last, taps, not arguments['WIDE'] and x.size(1) % 16 == 0
    arguments = arguments | dict(bits=arguments['count'].bit_length())

    def grid(tile: dict) -> tuple[int, ...]:
        sizes = arguments | dict(TAPS=taps)
        step = arguments.get('span', tile['BLOCK_P'])
        return (
            -(-arguments['count'] // step),
            *(-(-sizes[size] // tile[block]) for size, block in chosen.axes),
        )

    if interpreted():
        # What takes time here is the number of tiles.
        tile = max(
            chosen.configs(*kind),
            key=lambda tile: (tile['BLOCK_C'], tile['BLOCK_P']),
        )
        tile['BLOCK_P'] = max(tile['BLOCK_P'], 64)
        chosen.run[grid](**arguments, **tile)
        return
    with torch.cuda.device(x.device):
        if torch.are_deterministic_algorithms_enabled():
            chosen.run[grid](**arguments, **chosen.configs(*kind)[0])
        else:
            with _TUNING:
                tuned(name, *kind, x.device)[grid](**arguments)


@cache
def tuned(name: str, last: bool, taps: int, plain: bool, device: torch.device):
    """A kernel as Triton's tuner runs it: measured once for every key.

    One for each device, which may differ, and have threads of their own.
    Results are kept on disk, so that the next run need not measure again.
    """
    import triton

    from mmrfa.ops.primitives.gpu.kernels.tiles import OPTIONS

    choices = []
    for choice in kernels()[name].configs(last, taps, plain):
        options = {k: choice.pop(k) for k in OPTIONS}
        choices.append(triton.Config(choice, **options))
    key = 'CHANNELS OUTPUTS bits ATTEND UNFOLD FROM_X WIDE'
    key = f'{key} KH KW SH SW DH DW'.split()
    tune = triton.autotune(choices, key, do_bench=_time, cache_results=True)
    return tune(kernels()[name].run)


def _time(call: Callable[[], object], quantiles: tuple[float, ...]):
    """Triton's own measurement, which a capture would end in.

    Raises:
        RuntimeError: a CUDA graph is captured.
    """
    from triton.runtime import driver

    require(
        not torch.cuda.is_current_stream_capturing(),
        'layers that ran once with such an input before a CUDA graph is '
        'captured, so that their kernels are tuned',
        'one that did not',
    )
    return driver.active.get_benchmarker()(call, quantiles=quantiles)


def device_seconds(call: Callable[[], object], rounds: int = 5) -> float:
    """Median time of a call on the current CUDA device."""
    call()
    return median(device_time(call)[0] for _ in range(rounds))


def device_time(call: Callable[[], object]) -> tuple[float, bool]:
    """Time of one call on the current CUDA device.

    The device is kept busy before it, so that the host is ahead: small
    kernels take less time than starting them does. Where the device was done
    waiting before the host had started all, it waits longer, and once more.

    Returns:
        tuple[float, bool]: seconds, and whether the host was ahead; if not,
        as where the call itself waits for the device, they hold time of the
        host as well.
    """
    for cycles in WAITS:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(cycles)
        begin.record()
        call()
        ahead = not begin.query()
        end.record()
        end.synchronize()
        if ahead:
            break
    return begin.elapsed_time(end) / 1e3, ahead
