"""Operators in any PyTorch network, on torch alone."""

from mmrfa.conversion.convert import convert_convs
from mmrfa.conversion.plan import Plan, Row, plan_convs

__all__ = ['Plan', 'Row', 'convert_convs', 'plan_convs']
