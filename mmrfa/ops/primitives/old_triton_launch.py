"""Whether the Triton kernels can run, and how they are started.

Importing never fails: :func:`unavailable` says why the kernels are not there.
Triton itself is imported at the first use.
"""

from collections.abc import Callable
from functools import cache
from statistics import median

import torch
from torch import Tensor

from mmrfa.ops.native_build import old_torch
from mmrfa.ops.norm import unsupported_norm
from mmrfa.ops.receptive_field import out_size
from mmrfa.ops.triton_configs import LAST_ONLY, OPTIONS, axes, configs

OLDEST = (3, 7)  # that the tests have run with
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LONGEST = 7  # kernel side: the loops over taps are unrolled
# A sum over positions is cut into pieces of a multiple of so many positions:
# of whole tiles, which are longer where the channels lie first.
SHORTEST_SPANS = {'first': 512, 'last': 128}
BUSY = 8_000_000  # clock cycles, some 5 ms: longer than a layer is started


@cache
def unavailable() -> str | None:
    """Import Triton; None, or why the kernels cannot be used here."""
    reason = old_torch(torch.__version__)
    if reason is not None:
        return reason
    try:
        import triton
    except ImportError as error:
        return f'triton does not import ({error}); pip install triton'
    if tuple(map(int, triton.__version__.split('.')[:2])) < OLDEST:
        oldest = '.'.join(map(str, OLDEST))
        return f'needs triton {oldest} or newer, got {triton.__version__}'
    return None


@cache
def kernel(name: str):
    """One of the kernels, whose modules import triton."""
    from mmrfa.ops import triton_conv_kernels, triton_kernels

    modules = triton_kernels, triton_conv_kernels
    return next(vars(m)[name] for m in modules if name in vars(m))


def interpreted() -> bool:
    """Whether a CPU simulates the kernels."""
    return kernel('INTERPRETED').value


def unsupported(x: Tensor, weight: Tensor, norm: object) -> str | None:
    """Why the kernels cannot run on this input, or None."""
    reason = unavailable()
    if reason is not None:
        return reason
    simulated = x.device.type == 'cpu' and interpreted()
    if not x.is_cuda and not simulated:
        return (
            f'needs a CUDA tensor, got one on {x.device} (a CPU simulates '
            'the kernels with TRITON_INTERPRET=1)'
        )
    if x.dtype not in DTYPES:
        return f'needs float32, float16 or bfloat16, got {x.dtype}'
    if max(weight.shape[2:]) > LONGEST:
        return (
            f'needs a kernel of at most {LONGEST}x{LONGEST}, got '
            f'{weight.size(2)}x{weight.size(3)}'
        )
    if x.numel() == 0:
        return 'needs at least one image'
    return unsupported_norm(norm)


# Launching ----------------------------------------------------------------


def channels_last(x: Tensor) -> bool:
    """Whether neighbouring threads take neighbouring channels."""
    return x.stride(1) == 1 and x.size(1) > 1


def is_wide(*tensors: Tensor) -> bool:
    """Whether an offset in one of the tensors may need more than 31 bits."""
    return any(
        sum((n - 1) * s for n, s in zip(t.shape, t.stride())) >= 2**31
        for t in tensors
    )


def planes(x: Tensor, count: int, height: int, width: int) -> Tensor:
    """Uninitialised (N, C, count, height, width) in the layout of x.

    With channels last, the planes lie outside of the channels: neighbouring
    threads then write neighbouring values.
    """
    n, c = x.shape[:2]
    if channels_last(x):
        y = x.new_empty(n, height, width, count, c)
        return y.permute(0, 4, 3, 1, 2)
    return x.new_empty(n, c, count, height, width)


def last_channel(vectors: Tensor) -> Tensor:
    """(C, ...) as the kernels read it: (..., C)."""
    return vectors.movedim(0, -1).contiguous()


def common(x: Tensor, kernel, stride, padding, dilation) -> dict:
    """The arguments that every kernel takes."""
    height, width = out_size(x, kernel, stride, padding, dilation)
    names = 'KH', 'KW', 'SH', 'SW', 'PH', 'PW', 'DH', 'DW'
    values = (*kernel, *stride, *padding, *dilation)
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


def strides(prefix: str, tensor: Tensor) -> dict[str, int]:
    """Arguments like xn, xc, xh, xw, and xt for the planes of five dims."""
    axes = 'nchw' if tensor.dim() == 4 else 'ncthw'
    return {prefix + a: s for a, s in zip(axes, tensor.stride())}


def pieces(x: Tensor, positions: int, most: int) -> tuple[int, int]:
    """How a sum over positions is cut: length and number of the pieces."""
    shortest = SHORTEST_SPANS['last' if channels_last(x) else 'first']
    number = min(positions // shortest, most)
    span = -(-positions // max(1, number))
    span = -(-span // shortest) * shortest  # whole tiles
    return span, -(-positions // span)


def start(name: str, arguments: dict) -> None:
    """Run a kernel with the tile that is best.

    With the first one where nothing shall depend on a clock: which tile it is
    decides in which order sums are added up. Simulated, with the largest.
    """
    x = arguments['x']
    taps = arguments['KH'] * arguments['KW']
    last = channels_last(x) or name in LAST_ONLY
    plain = not arguments['WIDE'] and x.size(1) % 16 == 0
    kind = name, last, taps, plain
    arguments = arguments | dict(bits=arguments['count'].bit_length())

    def grid(tile: dict) -> tuple[int, ...]:
        sizes = arguments | dict(TAPS=taps)
        step = arguments.get('span', tile['BLOCK_P'])
        return (
            -(-arguments['count'] // step),
            *(-(-sizes[size] // tile[block]) for size, block in axes(name)),
        )

    if interpreted():
        # What takes time here is the number of programs.
        largest = max(
            configs(*kind),
            key=lambda tile: (tile['BLOCK_C'], tile['BLOCK_P']),
        )
        kernel(name)[grid](**arguments, **largest)
        return
    with torch.cuda.device(x.device):
        if torch.are_deterministic_algorithms_enabled():
            kernel(name)[grid](**arguments, **configs(*kind)[0])
        else:
            tuned(*kind, x.device)[grid](**arguments)


@cache
def tuned(name: str, last: bool, taps: int, plain: bool, device: torch.device):
    """A kernel as Triton's tuner runs it: measured once for every key.

    One for each device, which may differ, and have threads of their own.
    Results are kept on disk, so that the next run need not measure again.
    """
    import triton

    choices = []
    for choice in configs(name, last, taps, plain):
        options = {k: choice.pop(k) for k in OPTIONS}
        choices.append(triton.Config(choice, **options))
    key = 'CHANNELS OUTPUTS bits ATTEND UNFOLD FROM_X WIDE'
    key = f'{key} KH KW SH SW DH DW'.split()
    return triton.autotune(choices, key, cache_results=True)(kernel(name))


def device_seconds(call: Callable[[], object], rounds: int = 5) -> float:
    """Median time of a call on the current CUDA device.

    The device is kept busy before each, so that the host is ahead of it:
    small kernels take less time than starting them does.
    """
    call()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(BUSY)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return median(times)
