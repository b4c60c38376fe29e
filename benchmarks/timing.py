"""What the benchmarks share: the machine, a step, times taken in turn."""

import argparse
import platform
import subprocess
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

import mmrfa
from mmrfa.layers import RFAConv, RFCAConv, RFCBAMConv
from mmrfa.ops import use_backend

ROOT = Path(__file__).parents[1]
OPERATORS = (RFAConv, RFCBAMConv, RFCAConv)
# Channels and pixels of the 3x3 convolutions that keep the size in ResNet-18
# and in the bottlenecks of ResNet-50 at 224x224.
LAYERS = [(64, 56), (128, 28), (256, 14), (512, 7)]


def arguments(text: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--out', type=Path, help='results, without ending')
    parser.add_argument('--rounds', type=int, default=rounds)
    return parser


def machine(**more: object) -> dict:
    """What the figures depend on; ``more`` is what only some know."""
    cpu = platform.processor()
    info = Path('/proc/cpuinfo')
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.split(':')[1] for x in lines if 'model name' in x), cpu)
    git = ['git', '-C', str(ROOT), 'rev-parse', 'HEAD']
    commit = subprocess.run(git, capture_output=True, text=True).stdout
    return dict(
        date=str(date.today()),
        cpu=cpu.strip(),
        torch=torch.__version__,
        mmrfa=mmrfa.__version__,
        commit=commit.strip(),
        **more,
    )


def named(config: str | Path) -> str:
    """A config as results name it: from the repository's root, if there."""
    path = Path(config).resolve()
    return str(path.relative_to(ROOT) if ROOT in path.parents else path)


def training_step(module: nn.Module, x: Tensor) -> None:
    """Forward and backward to every parameter and to the input."""
    module.zero_grad()
    x.grad = None
    out = module(x)
    out = out[-1] if isinstance(out, tuple) else out
    out.backward(torch.ones_like(out))


@torch.no_grad()
def inference(module: nn.Module, x: Tensor) -> None:
    module(x)


PASSES = {'inference': inference, 'training': training_step}


def in_form(form: str, run: Callable, module: nn.Module, x: Tensor) -> None:
    """Run a module in a form; 'plain' has none."""
    if form == 'plain':
        run(module, x)
        return
    with use_backend(form):
        run(module, x)


def on_cpu(threads: int) -> Callable[[Callable], float]:
    """A clock: seconds of one call with so many threads."""

    def seconds(call: Callable) -> float:
        timer = Timer('f()', globals=dict(f=call), num_threads=threads)
        return timer.timeit(1).median

    return seconds


def in_turn(
    calls: dict[str, Callable], rounds: int, clock: Callable, inputs: list
) -> dict[str, float]:
    """Median seconds of each call, all of them in turn.

    A machine that slows down slows them alike.

    Args:
        calls (dict): functions of one of the inputs, by name.
        rounds (int): how often each is timed, after a turn that warms up.
        clock (Callable): seconds of a function without arguments.
        inputs (list): taken in turn.

    Returns:
        dict: seconds by name.
    """
    times = {name: [] for name in calls}
    for turn in range(rounds + 1):
        x = inputs[turn % len(inputs)]
        for name, call in calls.items():
            seconds = clock(partial(call, x))
            if turn:
                times[name].append(seconds)
    return {name: median(found) for name, found in times.items()}


def compare(
    modules: dict[str, nn.Module],
    inputs: list[Tensor],
    rounds: int,
    clock: Callable,
) -> dict[str, dict[str, float]]:
    """Median seconds of every form, for inference and a training step.

    Args:
        modules (dict): module by name of the form; 'plain' is the baseline.
        inputs (list[Tensor]): taken in turn.
        rounds (int): how often every form is timed.
        clock (Callable): seconds of a function without arguments.

    Returns:
        dict: ``{'inference': {form: seconds}, 'training': {...}}``.
    """
    found = {}
    for name, run in PASSES.items():
        training = name == 'training'
        calls = {
            form: partial(in_form, form, run, module.train(training))
            for form, module in modules.items()
        }
        xs = [x.detach().requires_grad_(training) for x in inputs]
        found[name] = in_turn(calls, rounds, clock, xs)
    return found


def means(cases: list[dict], name: str) -> dict[str, float]:
    """Geometric means of the ratios to 'plain', by form."""
    return {
        form: geometric_mean(c[name][form] / c[name]['plain'] for c in cases)
        for form in cases[0][name]
        if form != 'plain'
    }


def say(case: dict) -> dict:
    """Progress: a line for a case, which is returned."""
    what = [f'{v}' for v in case.values() if not isinstance(v, dict)]
    for name in PASSES:
        times = dict(case.get(name, {}))
        plain = times.pop('plain', None)
        if times:
            what.append(f'| {name} {plain * 1e3:.3f} ms')
            what += [f'{form} x{t / plain:.2f}' for form, t in times.items()]
    print(*what, flush=True)
    return case
