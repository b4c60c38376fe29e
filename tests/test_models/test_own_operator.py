"""An operator from a user's own file: registering it is all it takes."""

import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.models.backbones import ResNet
from test_tools.tool_calls import load_tool
from torch import nn

from mmrfa.checkpoints.names import operators_in
from mmrfa.errors import InputError
from mmrfa.models import RFAResNet

SMALL = dict(base_channels=16, stem_channels=16)
OWN = """
from mmengine.registry import MODELS
from torch import nn, zeros

from mmrfa.layers import AttentionConv2d
from mmrfa.ops import conv2d


@MODELS.register_module()
class ScaleConv(AttentionConv2d):
    '''Every channel of the input times a learned number, 0 to 1.'''

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        size = 1, self.in_channels, 1, 1
        self.scale = nn.Parameter(zeros(size, **self.factory))

    def _forward(self, x):
        return conv2d(x * self.scale.sigmoid(), self.conv, self.window)

    def _neutral(self):
        nn.init.zeros_(self.scale)
        return 2
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Name of a module with the operator, which nothing has imported yet."""
    (tmp_path / 'own_operator.py').write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield 'own_operator'
    sys.modules.pop('own_operator', None)
    MODELS.module_dict.pop('ScaleConv', None)


@pytest.fixture
def plain(tmp_path):
    """A plain network in eval mode, and its checkpoint."""
    net = ResNet(depth=18, **SMALL)
    net.eval()
    torch.save(net.state_dict(), tmp_path / 'plain.pth')
    return net, tmp_path / 'plain.pth'


def far(net, other):
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(net.eval()(x), other(x), strict=True)
        return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def test_in_a_config(own, plain):
    """As backbone, from plain weights, and as a plugin."""
    cfg = Config(
        dict(
            model=dict(
                type='RFAResNet',
                depth=18,
                attention_conv=dict(type='ScaleConv'),
                plugins=[
                    dict(
                        cfg=dict(
                            type='AttentionBlock',
                            attention_conv=dict(type='ScaleConv'),
                        ),
                        position='after_conv2',
                    )
                ],
                **SMALL,
            ),
        )
    )
    with pytest.raises(InputError, match='RFAConv.*AWConv, got.*ScaleConv'):
        MODELS.build(cfg.model)
    imports = f'custom_imports = dict(imports=[{own!r}])'
    Config.fromstring(imports, '.py')
    net = MODELS.build(cfg.model)
    assert len(operators_in(net)) == 16
    net.init_weights()
    sum(y.mean() for y in net(torch.randn(1, 3, 64, 64))).backward()
    assert net.layer2[0].conv1.scale.grad is not None
    with pytest.raises(InputError, match='AWConv, ScaleConv, got'):
        RFAResNet(18, attention_conv=dict(type='RFConv'))

    del cfg.model['plugins']
    source, file = plain
    init = dict(type='PretrainedResNet', checkpoint=str(file))
    net = MODELS.build(dict(cfg.model, init_cfg=init))
    net.init_weights()
    assert far(net, source) < 1e-5
    # As 'Pretrained' its parts would be missing, so it stays as it is.
    net = MODELS.build(dict(cfg.model, init_cfg=dict(init, type='Pretrained')))
    net.init_weights()
    weight = net.layer1[0].conv1.weight
    assert not torch.equal(weight, source.layer1[0].conv1.weight)


def test_in_a_stock_resnet(own):
    __import__(own)
    dcn = dict(dcn=dict(type='ScaleConv'), stage_with_dcn=(True,) * 4)
    net = ResNet(depth=50, **dcn, **SMALL)
    assert len(operators_in(net)) == 16


def test_in_the_converter(own, plain, tmp_path):
    source = RFAResNet(18)
    torch.save(source.state_dict(), tmp_path / 'plain.pth')
    convert = load_tool('model_converters/resnet_to_rfa.py').main
    arguments = ['--depth', '18', '--attention-conv', 'ScaleConv']
    files = [str(plain[1]), str(tmp_path / 'own.pth')]
    with pytest.raises(InputError, match='AWConv, got.*ScaleConv'):
        convert([*files, *arguments])
    convert([*files, *arguments, '--imports', own])
    state = torch.load(tmp_path / 'own.pth', weights_only=True)['state_dict']
    net = RFAResNet(18, attention_conv=dict(type='ScaleConv'))
    net.load_state_dict(state, strict=True)
    assert isinstance(net.layer1[0].conv1.scale, nn.Parameter)
    assert far(net, source.eval()) < 1e-5
