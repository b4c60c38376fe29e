"""Whole networks in one graph: compiled, exported, in ONNX."""

import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmrfa.models import RFAResNet
from mmrfa.testing.onnx import assert_same_in_onnx

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('own_choice')]


class Tensors(nn.Module):
    """A segmentor as a function of images: what its forward gives."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.segmentor(x, mode='tensor')


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return RFAResNet(18, attention_conv=dict(type='RFAConv'), base_channels=8)


def segmentor() -> nn.Module:
    import mmseg.models  # noqa: F401

    init_default_scope('mmseg')
    torch.manual_seed(0)
    norm = dict(type='BN')
    return Tensors(
        MODELS.build(
            dict(
                type='EncoderDecoder',
                backbone=dict(
                    type='RFAResNetV1c',
                    depth=18,
                    base_channels=8,
                    stem_channels=8,
                    attention_conv=dict(type='RFAConv'),
                    strides=(1, 2, 2, 1),
                    dilations=(1, 1, 1, 2),
                    norm_cfg=norm,
                ),
                decode_head=dict(
                    type='DepthwiseSeparableASPPHead',
                    in_channels=64,
                    in_index=3,
                    channels=16,
                    dilations=(1, 6),
                    c1_in_channels=8,
                    c1_channels=4,
                    num_classes=5,
                    norm_cfg=norm,
                    align_corners=False,
                ),
                train_cfg={},
                test_cfg=dict(mode='whole'),
            )
        )
    )


NETWORKS = dict(backbone=backbone, segmentor=segmentor)
every_network = pytest.mark.parametrize('name', NETWORKS)


def total(out) -> torch.Tensor:
    outs = [out] if isinstance(out, torch.Tensor) else out
    return sum(part.pow(2).mean() for part in outs)


@every_network
def test_compiles_whole(name):
    net = NETWORKS[name]().eval()  # dropout would draw
    twin = copy.deepcopy(net)
    compiled = torch.compile(twin, fullgraph=True, backend='aot_eager')
    x = torch.randn(2, 3, 64, 96)
    losses = [total(module(x)) for module in (net, compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    for key, parameter in net.named_parameters():
        if parameter.grad is not None:
            got = twin.get_parameter(key).grad
            error = (got - parameter.grad).norm()
            assert error <= 1e-3 * parameter.grad.norm() + 1e-6, key


@every_network
def test_exports_strictly(name):
    net = NETWORKS[name]().eval()
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        net,
        (torch.randn(2, 3, 64, 96),),
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC, 2: auto, 3: auto},),
        strict=True,
    )
    x = torch.randn(3, 3, 96, 64)
    torch.testing.assert_close(
        total(program.module()(x)), total(net(x)), rtol=1e-5, atol=1e-7
    )


@every_network
def test_same_in_onnx(name, tmp_path):
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    net = NETWORKS[name]()
    others = torch.randn(3, 3, 96, 64), torch.randn(1, 3, 64, 160)
    assert_same_in_onnx(net, torch.randn(2, 3, 64, 96), others, tmp_path)
