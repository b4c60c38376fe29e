"""Helpers for tests of operators, ours and those of people who add one."""

from mmrfa.testing.parity import FLOOR, assert_no_worse, runnable_backends

__all__ = ['FLOOR', 'assert_no_worse', 'runnable_backends']
