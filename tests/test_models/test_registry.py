"""The operators by name, in MMCV's builders and in stock ResNets."""

import copy
from importlib.util import find_spec

import pytest
import torch
from mmcv.cnn import (
    ConvModule,
    build_conv_layer,
    build_plugin_layer,
    fuse_conv_bn,
)
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmseg.models.backbones import ResNetV1c

import mmrfa.models  # noqa: F401
from mmrfa.layers import OPERATORS

NAMES = [operator.__name__ for operator in OPERATORS]


def needs_compiled_operators():
    if find_spec('mmcv._ext') is None:
        pytest.skip('mmdet needs the compiled operators of mmcv: make ops')


every_name = pytest.mark.parametrize('name', NAMES)


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


@every_name
def test_plugin_block_starts_as_the_identity(name):
    key, block = build_plugin_layer(
        dict(type=f'{name}Block'), in_channels=8, postfix='_1'
    )
    assert key == f'{name[:-4].lower()}_conv_block_1'
    block.init_weights()
    x = torch.randn(2, 8, 7, 6)
    assert torch.equal(block(x), x)
    block.conv.norm.weight.data.fill_(1)
    y = block(x)
    assert y.shape == x.shape
    assert not torch.equal(y, x)


def test_plugins_in_the_stock_resnet():
    plugins = [
        dict(
            cfg=dict(type='RFAConvBlock'),
            stages=(False, False, True, True),
            position='after_conv2',
        )
    ]
    args = dict(depth=50, base_channels=16, stem_channels=16)
    torch.manual_seed(0)
    net, plain = ResNetV1c(**args, plugins=plugins), ResNetV1c(**args)
    net.eval()
    plain.eval()
    result = plain.load_state_dict(net.state_dict(), strict=False)
    assert not result.missing_keys
    assert all('rfa_conv_block' in k for k in result.unexpected_keys)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(net(x)[-1], plain(x)[-1])


@pytest.mark.usefixtures('own_choice')
@every_name
def test_fusing_batch_norm_keeps_the_function(name):
    """MMEngine's deployment helper folds the norm inside the operators."""
    torch.manual_seed(0)
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
