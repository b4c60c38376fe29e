"""Every operator in ONNX, without naming a form."""

import pytest
import torch
from torch import nn

from mmrfa.layers import OPERATORS, AWConv, RFAConv
from mmrfa.testing.onnx import assert_same_in_onnx

pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
pytest.importorskip('onnxscript', reason='onnxscript is not installed')

VARIANTS = {
    **{operator.__name__: (operator, {}) for operator in OPERATORS},
    'RFAConv-unfold': (RFAConv, dict(mode='unfold')),
    'AWConv-ca': (AWConv, dict(activation='ca')),
}


@pytest.mark.slow
@pytest.mark.usefixtures('own_choice')
@pytest.mark.parametrize('variant', VARIANTS)
def test_same_in_onnx(variant, tmp_path):
    operator, arguments = VARIANTS[variant]
    # Two in a row: shapes that the first makes are symbols for the second.
    net = nn.Sequential(
        operator(4, 6, 3, 1, 2, 2, 2, **arguments),
        nn.ReLU(),
        operator(6, 4, 3, 2, 1, **arguments),
    )
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    others = torch.randn(5, 4, 16, 7), torch.randn(1, 4, 9, 21)
    assert_same_in_onnx(net, torch.randn(2, 4, 12, 10), others, tmp_path)
