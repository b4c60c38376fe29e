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


TRACED, OTHER_SIZE, OTHER_BATCH = (2, 4, 16, 8), (2, 4, 9, 20), (1, 4, 16, 8)
# Programs of the former exporter that are for what it saw alone.
REFUSED = {
    'RFCBAMConv': (OTHER_SIZE, OTHER_BATCH),
    'RFCAConv': (OTHER_SIZE, OTHER_BATCH),
    'AWConv': (OTHER_BATCH,),
}


@pytest.mark.usefixtures('own_choice')
@pytest.mark.filterwarnings('ignore')  # of the exporter, about tracing
@pytest.mark.parametrize('operator', OPERATORS)
def test_in_onnx_by_tracing(operator):
    """What a program is too narrow for, it refuses."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    net = operator(4, 6, 3, padding=1).eval()
    file = io.BytesIO()
    names = dict(input_names=['x'], output_names=['y'])
    axes = dict(x={0: 'batch', 2: 'height', 3: 'width'})
    torch.onnx.export(
        net,
        (torch.randn(TRACED),),
        file,
        dynamo=False,
        dynamic_axes=axes,
        **names,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # about what is refused
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    for shape in TRACED, OTHER_SIZE, OTHER_BATCH:
        image = torch.randn(shape)
        given = dict(x=image.numpy())
        if shape in REFUSED.get(operator.__name__, ()):
            with pytest.raises(Fail):
                session.run(None, given)
            continue
        (got,) = session.run(None, given)
        wanted = net(image)
        assert got.shape == wanted.shape
        error = (torch.from_numpy(got) - wanted).abs().max()
        assert error <= 1e-5 * wanted.abs().max()
