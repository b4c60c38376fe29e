"""RFAResNet and RFAResNetV1c."""

import logging
import os

import pytest
import torch
from mmengine.registry import MODELS
from mmseg.models.backbones import ResNet, ResNetV1c
from torch import nn

from mmrfa.checkpoints.names import operators_in
from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS
from mmrfa.models import RFAResNet, RFAResNetV1c

NAMES = [operator.__name__ for operator in OPERATORS]
DEPTHS = (18, 34, 50, 101)
SMALL = dict(base_channels=8, stem_channels=8)
RFA = dict(type='RFAConv')
BLOCK = dict(type='AttentionBlock', attention_conv=RFA)


@pytest.mark.parametrize('depth', DEPTHS)
def test_plain_is_the_stock_resnet(depth):
    """Same keys, same function, same initialisation."""
    for ours, stock in ((RFAResNet, ResNet), (RFAResNetV1c, ResNetV1c)):
        nets = []
        for kind in (ours, stock):
            torch.manual_seed(1)
            net = kind(depth=depth, **SMALL)
            torch.manual_seed(2)
            net.init_weights()
            net.eval()
            nets.append(net)
        own, other = (net.state_dict() for net in nets)
        assert list(own) == list(other)
        assert all(torch.equal(own[key], other[key]) for key in own)
        x = torch.randn(1, 3, 64, 64)
        for a, b in zip(nets[0](x), nets[1](x), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize('depth', DEPTHS)
@pytest.mark.parametrize('name', NAMES)
def test_every_block_has_the_operator(name, depth):
    net = RFAResNet(depth, attention_conv=dict(type=name), **SMALL)
    conv = 'conv1' if depth < 50 else 'conv2'
    blocks = {18: 8, 34: 16, 50: 16, 101: 33}[depth]
    found = operators_in(net)
    assert len(found) == blocks
    assert all(key.endswith(conv) for key in found)
    for key in found:
        operator = net.get_submodule(key)
        assert type(operator).__name__ == name
        assert operator.bias is not None
    # Everything else keeps its name.
    plain = RFAResNet(depth, **SMALL).state_dict()
    own = net.state_dict()
    rest = {k for k in plain if k not in {f'{f}.weight' for f in found}}
    assert {k for k in own if not k.startswith(tuple(found))} == rest


def test_stages_can_be_chosen():
    net = RFAResNet(
        18,
        attention_conv=RFA,
        stage_with_attention_conv=(False, True, False, True),
        **SMALL,
    )
    stages = {key.split('.')[0] for key in operators_in(net)}
    assert stages == {'layer2', 'layer4'}


def test_fewer_stages():
    """The default follows num_stages."""
    three = dict(
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
    )
    net = RFAResNet(18, attention_conv=RFA, **three, **SMALL)
    stages = {key.split('.')[0] for key in operators_in(net)}
    assert stages == {'layer1', 'layer2', 'layer3'}
    assert net(torch.randn(1, 3, 64, 64))[-1].shape == (1, 32, 4, 4)


@pytest.mark.parametrize('depth', (18, 50))
@pytest.mark.parametrize(
    ('stride', 'settings'),
    [
        (32, {}),
        (16, dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))),
        (8, dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))),
        (
            8,
            dict(
                strides=(1, 2, 1, 1),
                dilations=(1, 1, 2, 4),
                contract_dilation=True,
            ),
        ),
    ],
    ids=['os32', 'os16', 'os8', 'os8-contract'],
)
def test_output_stride_and_dilation(depth, stride, settings):
    net = RFAResNetV1c(depth, attention_conv=RFA, **settings, **SMALL)
    stock = ResNetV1c(depth=depth, **settings, **SMALL)
    x = torch.randn(2, 3, 64, 64)
    ours = net(x)
    assert [y.shape for y in ours] == [y.shape for y in stock(x)]
    assert ours[-1].shape[-1] == 64 // stride
    plain = dict(stock.named_modules())
    for key in operators_in(net):
        operator = net.get_submodule(key)
        for name in ('stride', 'padding', 'dilation'):
            assert getattr(operator, name) == getattr(plain[key], name)


def test_multi_grid():
    net = RFAResNet(
        50,
        attention_conv=RFA,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        multi_grid=(4, 8, 16),
        **SMALL,
    )
    dilations = [block.conv2.dilation for block in net.layer4]
    assert dilations == [(4, 4), (8, 8), (16, 16)]


@pytest.mark.parametrize('depth', (18, 50))
def test_frozen_stages_and_norm_eval(depth):
    net = RFAResNet(
        depth, attention_conv=RFA, frozen_stages=1, norm_eval=True, **SMALL
    ).train()
    for name, parameter in net.named_parameters():
        frozen = name.startswith(('conv1', 'bn1', 'layer1'))
        assert parameter.requires_grad != frozen, name
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 20
    assert not any(norm.training for norm in norms)
    assert net.layer2.training
    assert not net.layer1.training


@pytest.mark.usefixtures('own_choice')
@pytest.mark.parametrize('depth', (18, 50))
def test_checkpointing_gives_the_same_gradients(depth):
    x = torch.randn(2, 3, 32, 32).double()
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        net = RFAResNet(
            depth, attention_conv=RFA, with_cp=with_cp, norm_eval=True, **SMALL
        )
        net.double().train()
        sum(y.sum() for y in net(x.clone().requires_grad_())).backward()
        gradients.append({k: p.grad for k, p in net.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_zero_init_residual():
    for depth, last in ((18, 'norm2'), (50, 'norm3')):
        net = RFAResNet(depth, attention_conv=RFA, **SMALL)
        net.init_weights()
        norms = [getattr(block, last) for block in net.layer1]
        assert not any(norm.weight.any() for norm in norms)
        net = RFAResNet(
            depth, attention_conv=RFA, zero_init_residual=False, **SMALL
        )
        net.init_weights()
        norms = [getattr(block, last) for block in net.layer1]
        assert all(norm.weight.all() for norm in norms)


def test_norm_cfg_reaches_the_operator():
    net = RFAResNet(
        18,
        attention_conv=RFA,
        norm_cfg=dict(type='SyncBN', eps=0.01, requires_grad=True),
        **SMALL,
    )
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    inner = net.layer1[0].conv1.norm
    assert isinstance(inner, nn.SyncBatchNorm)
    assert inner.eps == 0.01


def test_config_dicts_are_left_alone():
    cfg = dict(
        type='RFAResNet',
        depth=50,
        attention_conv=dict(type='AWConv', activation='se'),
        plugins=[dict(cfg=BLOCK, position='after_conv2')],
        **SMALL,
    )
    text = repr(cfg)
    MODELS.build(cfg)
    assert repr(cfg) == text
    MODELS.build(cfg)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=19), 'expected depth 18, 34, 50, 101, 152, got 19'),
        (
            dict(attention_conv=dict(type='RFConv')),
            "one of RFAConv, RFCBAMConv, .* got {'type': 'RFConv'}",
        ),
        (dict(attention_conv='RFAConv'), "a dict .* got 'RFAConv'"),
        (dict(attention_conv=dict(type='Conv2d')), 'one of RFAConv'),
        (
            dict(stage_with_attention_conv=(True, True)),
            r'4 entries, one per stage, got \(True, True\)',
        ),
        (
            dict(plugins=[dict(cfg=BLOCK, position='after_conv3')]),
            "after_conv1 or after_conv2 .* got 'after_conv3'",
        ),
    ],
    ids=str,
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(InputError, match=message) as error:
        MODELS.build(dict(type='RFAResNet', **{'depth': 18} | kwargs))
    assert '\n' not in str(error.value)


@pytest.fixture
def log(caplog):
    """MMEngine's logger, heard by pytest."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_instance('mmrfa-tests', logger_name='mmrfa-tests')
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


def pretrained(path, **kwargs):
    cfg = dict(type='Pretrained', checkpoint=str(path), **kwargs)
    return RFAResNet(
        18, attention_conv=RFA, init_cfg=cfg, frozen_stages=1, **SMALL
    )


def test_ordinary_weights_fill_all_but_the_operators(tmp_path, log):
    plain = ResNet(depth=18, **SMALL)
    state = plain.state_dict() | {'fc.weight': torch.zeros(10, 64)}
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'r18.pth')
    net = pretrained(tmp_path / 'r18.pth')
    net.init_weights()
    own = net.state_dict()
    operators = tuple(operators_in(net))
    for key, value in plain.state_dict().items():
        if not key.startswith(operators):
            assert torch.equal(own[key], value), key
    for key in operators:  # what a plain weight would compute is another
        assert not torch.equal(own[f'{key}.weight'], state[f'{key}.weight'])
    text = log.text
    assert f'filled: {len(plain.state_dict()) - 8} of {len(own)}' in text
    assert 'left at their initial value: 64 tensors in layer1.0.conv1' in text
    assert 'not used: 1 tensors in fc' in text
    assert "'PretrainedResNet' starts from them): 8 tensors in la" in text
    assert 'layer1.0.conv1 (RFAConv) at its random initial value' in text
    operator = net.layer2[0].conv1
    assert operator.weight.std().item() == pytest.approx(
        (2 / (operator.out_channels * 9)) ** 0.5, rel=0.2
    )


def test_own_weights_fill_everything(tmp_path, log):
    source = RFAResNet(18, attention_conv=RFA, **SMALL)
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'own.pth')
    net = pretrained(tmp_path / 'own.pth', prefix='backbone.')
    net.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(net.state_dict()[key], value), key
    assert 'left at their initial value: nothing' in log.text
    assert 'random initial value' not in log.text


@pytest.mark.parametrize('name', NAMES)
def test_older_names_fill_everything(name, tmp_path, log):
    """Operators had their weight and bias in a module ``conv``."""
    settings = dict(attention_conv=dict(type=name), **SMALL)
    source = RFAResNet(18, **settings)
    state = source.state_dict()
    for key in operators_in(source):
        for leaf in ('weight', 'bias'):
            if f'{key}.{leaf}' in state:
                state[f'{key}.conv.{leaf}'] = state.pop(f'{key}.{leaf}')
    torch.save(dict(state_dict=state), tmp_path / 'old.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'old.pth'))
    net = RFAResNet(18, init_cfg=init, **settings)
    net.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(net.state_dict()[key], value), key
    assert 'left at their initial value: nothing' in log.text
    assert 'not used: nothing' in log.text


def test_a_failed_initialisation_keeps_the_settings(tmp_path, monkeypatch):
    torch.save(RFAResNet(18, **SMALL).state_dict(), tmp_path / 'a.pth')
    net = pretrained(tmp_path / 'a.pth')
    wanted = net.init_cfg

    def fail(self):
        raise MemoryError

    monkeypatch.setattr(ResNet, 'init_weights', fail)
    with pytest.raises(MemoryError):
        net.init_weights()
    assert net.init_cfg == wanted


def test_bad_checkpoints(tmp_path):
    torch.save({'a.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    good = tmp_path / 'good.pth'
    torch.save(RFAResNet(18, **SMALL).state_dict(), good)
    (tmp_path / 'cut.pth').write_bytes(good.read_bytes()[:5000])
    (tmp_path / 'text.pth').write_text('hello')
    for name, message in {
        'missing.pth': 'expected a file, found none',
        'cut.pth': 'truncated, damaged or of another kind',
        'text.pth': 'truncated, damaged or of another kind',
        'other.pth': "no name and shape fits .*'a.weight'",
        'open-mmlab://no_such_net': 'cannot be fetched',
        'http://127.0.0.1:9/r.pth': 'init_cfg.checkpoint=FILE.*init_cfg=None',
    }.items():
        path = name if '://' in name else tmp_path / name
        with pytest.raises(InputError, match=message) as error:
            pretrained(path).init_weights()
        assert '\n' not in str(error.value)
        assert name in str(error.value)
    with pytest.raises(InputError, match="begin with 'neck.'"):
        pretrained(good, prefix='neck').init_weights()


class Hostile:
    """A checkpoint that would write a file when loaded carelessly."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save(dict(state_dict=Hostile(tmp_path / 'ran')), tmp_path / 'x.pth')
    with pytest.raises(InputError, match='refused to run io.open from it'):
        pretrained(tmp_path / 'x.pth').init_weights()
    assert not (tmp_path / 'ran').exists()


def test_downloads_are_cached_and_no_code_in_them_is_run(
    tmp_path, monkeypatch
):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    source = RFAResNet(18, attention_conv=RFA, **SMALL)
    torch.save(source.state_dict(), tmp_path / 'good.pth')
    torch.save(dict(state_dict=Hostile(tmp_path / 'ran')), tmp_path / 'x.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        net = pretrained(f'{address}/good.pth')
        net.init_weights()
        with pytest.raises(InputError, match='refused to run io.open'):
            pretrained(f'{address}/x.pth').init_weights()
        server.shutdown()
    assert torch.equal(
        net.layer1[0].conv1.weight, source.layer1[0].conv1.weight
    )
    assert list((tmp_path / 'cache').rglob('good.pth'))
    assert not (tmp_path / 'ran').exists()
    assert 'TORCH_FORCE_WEIGHTS_ONLY_LOAD' not in os.environ
