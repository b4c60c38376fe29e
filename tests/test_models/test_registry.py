"""Everything by name, in MMCV's builders and in stock ResNets."""

import copy
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from mmcv.cnn import ConvModule, build_conv_layer, fuse_conv_bn
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmseg.models.backbones import ResNet, ResNetV1c

from mmrfa.layers import OPERATORS
from mmrfa.models import RFAResNet
from mmrfa.openmmlab import package_of

NAMES = [operator.__name__ for operator in OPERATORS]

every_name = pytest.mark.parametrize('name', NAMES)


def needs_compiled_operators():
    if find_spec('mmcv._ext') is None:
        pytest.skip('mmdet needs the compiled operators of mmcv: make ops')


@pytest.mark.skipif(
    package_of('mmseg') == 'mmsegmentation',
    reason='the original mmseg needs the compiled operators itself',
)
def test_one_import_registers_everything():
    """Without the compiled operators of mmcv."""
    code = f"""
import sys
sys.modules['mmcv._ext'] = None
import mmrfa.models
from mmengine.fileio.backends import backends
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
for registry, names in (
    (MODELS, '{' '.join(NAMES)} AttentionBlock Converted RFAResNet '
             'RFAResNetV1c'),
    (DATASETS, 'CamVidDataset ConcatOfOnePipeline'),
    (TRANSFORMS, 'CheckMask'),
    (backends, 'checked'),
):
    for name in names.split():
        assert name in registry, name
assert 'mmyolo' not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@every_name
def test_build_conv_layer(name):
    layer = build_conv_layer(dict(type=name), 4, 6, 3, stride=2, padding=1)
    assert type(layer).__name__ == name
    assert layer(torch.randn(2, 4, 8, 7)).shape == (2, 6, 4, 4)


@every_name
def test_conv_module(name):
    module = ConvModule(
        4,
        6,
        3,
        padding=1,
        dilation=1,
        conv_cfg=dict(type=name),
        norm_cfg=dict(type='BN'),
    )
    assert module.conv.bias is None  # a norm follows
    assert module.kernel_size == (3, 3)
    y = module(torch.randn(2, 4, 8, 7))
    assert y.shape == (2, 6, 8, 7)
    assert y.min() == 0


@every_name
def test_dcn_slot_of_the_stock_mmseg_resnet(name):
    net = ResNetV1c(
        depth=50,
        base_channels=16,
        stem_channels=16,
        dcn=dict(type=name),
        stage_with_dcn=(False, False, True, True),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
    )
    net.init_weights()
    kinds = [type(m).__name__ for m in net.modules()]
    assert kinds.count(name) == 9
    assert net(torch.randn(1, 3, 32, 32))[-1].shape == (1, 512, 4, 4)


def test_dcn_slot_builds_without_bias():
    """As the docstring of RFAResNet says, beside what that class builds."""
    conv = dict(type='RFAConv')
    stock = ResNet(50, dcn=conv, stage_with_dcn=(True,) * 4)
    sizes = [
        sum(p.numel() for p in net.parameters())
        for net in (stock, RFAResNet(50, attention_conv=conv))
    ]
    assert sizes == [23_915_840, 23_919_616]
    plain = RFAResNet(50, attention_conv=dict(conv, bias=False))
    assert plain.state_dict().keys() == stock.state_dict().keys()


@every_name
def test_dcn_slot_of_the_stock_mmdet_resnet(name):
    needs_compiled_operators()
    from mmdet.models.backbones import ResNet

    net = ResNet(
        depth=50,
        base_channels=16,
        stem_channels=16,
        dcn=dict(type=name),
        stage_with_dcn=(False, True, True, True),
    )
    kinds = [type(m).__name__ for m in net.modules()]
    assert kinds.count(name) == 13
    assert net(torch.randn(1, 3, 64, 64))[-1].shape == (1, 512, 2, 2)


@pytest.mark.usefixtures('own_choice')
@every_name
def test_fusing_batch_norm_keeps_the_function(name):
    """MMEngine's deployment helper folds the norm inside the operators."""
    module = ConvModule(
        16,
        8,
        3,
        conv_cfg=dict(type=name, norm_cfg=dict(type='SyncBN')),
        norm_cfg=dict(type='BN'),
    )
    module = revert_sync_batchnorm(module).double()
    x = torch.randn(2, 16, 7, 7).double()
    for _ in range(3):
        module.train()(x)
    module.eval()
    expected = module(x)
    assert expected.abs().max() > 0
    fused = fuse_conv_bn(copy.deepcopy(module))
    torch.testing.assert_close(fused(x), expected)


@pytest.mark.parametrize('scope', ['mmengine', 'mmseg', 'mmdet'])
def test_found_from_every_scope(scope):
    if scope == 'mmdet':
        needs_compiled_operators()
    with DefaultScope.overwrite_default_scope(scope):
        net = MODELS.build(dict(type='RFAResNet', depth=18))
    assert type(net).__name__ == 'RFAResNet'
