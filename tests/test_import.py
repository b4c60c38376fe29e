"""What importing mmrfa brings along, and what it says of this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

import mmrfa.ops
from mmrfa.ops.primitives import cpu

ROOT = Path(__file__).parents[1]
# The counter imports triton, where that is installed.
COUNTED = """
import sys, torch
from mmrfa.layers import RFAConv
assert 'triton' not in sys.modules
assert 'torch.utils.flop_counter' not in sys.modules
from torch.utils.flop_counter import FlopCounterMode
layer = RFAConv(4, 6, 3, padding=1).eval()
with FlopCounterMode(display=False) as counter, torch.no_grad():
    layer(torch.randn(2, 4, 5, 7))
features, last = 2 * 2 * 36 * 35 * 9, 2 * 2 * 6 * 35 * 36
assert counter.get_total_flops() == features + last
"""


def run(*arguments: str) -> str:
    found = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
def test_operations_are_known_to_a_counter_that_comes_later():
    run('-c', COUNTED)


@pytest.mark.slow
def test_says_what_can_run():
    lines = run('-m', 'mmrfa').splitlines()
    verdict = 'runs' if cpu.unavailable() is None else cpu.unavailable()
    assert f'rfa_conv2d         compiled   cpu   {verdict}' in lines
    assert 'aw_conv2d          reference  cpu   runs' in lines
    forms = [
        f'{name:18} {backend:10} cpu'
        for name, operator in vars(mmrfa.ops).items()
        for backend in getattr(operator, 'backends', ())
    ]
    assert len(forms) == 14
    assert all(any(x.startswith(form) for x in lines) for form in forms)
