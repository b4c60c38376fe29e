"""Operators in any PyTorch network, on torch alone."""

from mmrfa.conversion.calibrate import calibrate
from mmrfa.conversion.convert import convert_convs
from mmrfa.conversion.plan import Plan, Row, plan_convs

__all__ = ['Plan', 'Row', 'calibrate', 'convert_convs', 'plan_convs']
