"""Helpers for tests of operators, ours and those of people who add one.

They need pytest.
"""

from mmrfa.testing.contract import OperatorContract, new_torch
from mmrfa.testing.parity import FLOOR, assert_no_worse, runnable_backends
from mmrfa.testing.simulated_gpu import simulated_gpu

__all__ = [
    'FLOOR',
    'OperatorContract',
    'assert_no_worse',
    'new_torch',
    'runnable_backends',
    'simulated_gpu',
]
