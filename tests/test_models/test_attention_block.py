"""AttentionBlock, the operators as plugins of ResNets."""

import pytest
import torch
from mmcv.cnn import build_plugin_layer
from mmengine.registry import MODELS
from mmseg.models.backbones import ResNetV1c
from torch import nn

from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS
from mmrfa.models import AttentionBlock, RFAResNet

SMALL = dict(base_channels=16, stem_channels=16)


def block_cfg(name, **kwargs):
    return dict(
        type='AttentionBlock', attention_conv=dict(type=name), **kwargs
    )


@pytest.mark.parametrize('name', [op.__name__ for op in OPERATORS])
def test_starts_as_the_identity(name):
    key, block = build_plugin_layer(
        block_cfg(name), in_channels=8, postfix='_1'
    )
    assert key == 'attention_block_1'
    assert type(block.conv).__name__ == name
    assert block.conv.bias is None
    x = torch.randn(2, 8, 7, 6)
    for _ in range(2):
        assert torch.equal(block(x), x)
        block.init_weights()
    block.norm.weight.data.fill_(1)
    y = block(x)
    assert y.shape == x.shape
    assert not torch.equal(y, x)


def test_operator_is_initialised_as_in_a_resnet():
    """He's normal initialisation, drawn anew by init_weights."""
    block = AttentionBlock(64, dict(type='RFAConv'))
    before = block.conv.weight.clone()
    block.init_weights()
    assert not torch.equal(block.conv.weight, before)
    std = (2 / (64 * 9)) ** 0.5
    assert block.conv.weight.std().item() == pytest.approx(std, rel=0.05)


def test_arguments_reach_the_operator():
    conv = dict(type='RFAConv', mode='unfold', bias=True)
    cfg = dict(
        type='AttentionBlock',
        attention_conv=conv,
        kernel_size=5,
        norm_cfg=dict(type='SyncBN', eps=0.01),
    )
    text = repr(cfg)
    block = MODELS.build(dict(cfg, in_channels=4))
    assert repr(cfg) == text
    assert block.conv.mode == 'unfold'
    assert block.conv.bias is not None
    assert block.conv.kernel_size == (5, 5)
    for norm in (block.conv.norm, block.norm):
        assert isinstance(norm, nn.SyncBatchNorm) and norm.eps == 0.01


def test_in_the_stock_resnet():
    plugins = [
        dict(
            cfg=block_cfg('RFAConv'),
            stages=(False, False, True, True),
            position='after_conv2',
        )
    ]
    net = ResNetV1c(depth=50, plugins=plugins, **SMALL)
    plain = ResNetV1c(depth=50, **SMALL)
    net.eval()
    plain.eval()
    result = plain.load_state_dict(net.state_dict(), strict=False)
    assert not result.missing_keys
    assert all('.attention_block.' in k for k in result.unexpected_keys)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(net(x)[-1], plain(x)[-1])


@pytest.mark.parametrize('depth', (18, 50))
def test_in_turn(depth):
    """Both of two plugins at one position act, on basic blocks as well."""
    plugins = [
        dict(cfg=block_cfg(name, postfix=i), position='after_conv2')
        for i, name in enumerate(('CAMConv', 'RFAConv'))
    ]
    plugins.append(
        dict(
            cfg=block_cfg('CAConv'),
            position='after_conv1',
            stages=(True, False, False, False),
        )
    )
    net = RFAResNet(depth, plugins=plugins, **SMALL)
    assert hasattr(net.layer1[0], 'attention_block')
    assert not hasattr(net.layer2[0], 'attention_block')
    net.init_weights()
    x = torch.randn(1, 3, 32, 32)
    before = net.eval()(x)[-1]
    for key in ('attention_block0', 'attention_block1'):
        nn.init.ones_(getattr(net.layer1[0], key).norm.weight)
        last = net.layer1[0].norm2 if depth < 50 else net.layer1[0].norm3
        nn.init.ones_(last.weight)
        after = net(x)[-1]
        assert not torch.equal(after, before), key
        before = after


@pytest.mark.parametrize('depth', (18, 50))
@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='RFAConvBlock'), "AttentionBlock with .*'RFAConvBlock'"),
        (block_cfg('RFConv'), "RFAConv, .* got {'type': 'RFConv'}"),
    ],
)
def test_unknown_types(depth, cfg, message):
    plugin = dict(cfg=cfg, position='after_conv2')
    with pytest.raises(InputError, match=message) as error:
        RFAResNet(depth, plugins=[plugin])
    assert '\n' not in str(error.value)


def test_even_kernels_would_change_the_size():
    with pytest.raises(InputError, match='an odd kernel_size, got 4'):
        AttentionBlock(8, dict(type='RFAConv'), kernel_size=4)
