"""Every operator in ONNX, without naming a form."""

import io

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


@pytest.mark.usefixtures('own_choice')
@pytest.mark.filterwarnings('ignore')  # of the exporter, about tracing
@pytest.mark.parametrize('operator', OPERATORS)
def test_in_onnx_by_tracing(operator):
    """The former exporter. What a program is too narrow for, it refuses."""
    import onnxruntime

    net = operator(4, 6, 3, padding=1).eval()
    file = io.BytesIO()
    names = dict(input_names=['x'], output_names=['y'])
    axes = dict(x={0: 'batch', 2: 'height', 3: 'width'})
    x = torch.randn(2, 4, 16, 8)
    torch.onnx.export(
        net, (x,), file, dynamo=False, dynamic_axes=axes, **names
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # about what is refused
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    compared = 0
    for shape in x.shape, (2, 4, 9, 20), (1, 4, 16, 8):
        image = torch.randn(shape)
        try:
            (got,) = session.run(None, dict(x=image.numpy()))
        except Exception:  # the runtime has kinds of its own
            continue
        wanted = net(image)
        compared += 1
        assert got.shape == wanted.shape
        error = (torch.from_numpy(got) - wanted).abs().max()
        assert error <= 1e-5 * wanted.abs().max()
    assert compared >= 1
