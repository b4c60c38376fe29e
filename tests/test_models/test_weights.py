"""Starting from an ordinary ResNet: same features, and able to learn."""

import re

import pytest
import torch
from mmseg.models.backbones import ResNet, ResNetV1c, ResNetV1d
from torch import nn

from mmrfa.checkpoints.names import operators_in
from mmrfa.conversion import calibrate
from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS, AttentionConv2d, set_moments
from mmrfa.models import RFAResNet, RFAResNetV1c
from mmrfa.models.weights.plain import fill_from_plain

CONVS = [dict(type=operator.__name__) for operator in OPERATORS]
CONVS.append(dict(type='RFAConv', mode='unfold'))
CONVS += [dict(type='AWConv', activation=a) for a in ('se', 'cbam', 'ca')]
SMALL = dict(base_channels=16, stem_channels=16)
RFA = dict(type='RFAConv')


def name_of(conv):
    return '-'.join(conv.values())


def random_plain(kind=ResNet, depth=18, **kwargs):
    """A plain ResNet in eval mode with random weights and statistics."""
    net = kind(depth=depth, **{**SMALL, **kwargs})
    net.eval()
    for key, value in net.state_dict().items():
        if key.endswith('running_mean'):
            value.normal_(0, 0.3)
        elif key.endswith('running_var'):
            value.uniform_(0.5, 2)
        elif key.endswith('weight') and value.dim() == 1:
            value.uniform_(0.2, 1)
        elif key.endswith('bias'):
            value.normal_(0, 0.3)
    return net


def converted(plain, conv, kind=RFAResNet, depth=18, **kwargs):
    """The network that starts from ``plain``, and the report."""
    net = kind(depth, attention_conv=conv, **{**SMALL, **kwargs})
    net.init_weights()
    return net.eval(), fill_from_plain(net, plain.state_dict(), 'plain.pth')


def far(net, other, x):
    with torch.no_grad():
        return max(
            float((a - b).norm() / b.norm())
            for a, b in zip(net(x), other(x), strict=True)
        )


@pytest.mark.parametrize(
    ('conv', 'depth'),
    [(conv, depth) for conv in CONVS[:7] for depth in (18, 34, 50, 101)]
    + [(conv, depth) for conv in CONVS[7:] for depth in (18, 50)],
    ids=lambda value: value if isinstance(value, int) else name_of(value),
)
def test_features_stay(conv, depth):
    plain = random_plain(depth=depth)
    net, report = converted(plain, conv, depth=depth)
    blocks = {18: 8, 34: 16, 50: 16, 101: 33}[depth]
    assert len(operators_in(net)) == blocks
    assert far(net, plain, torch.randn(2, 3, 65, 48)) < 1e-5
    assert report.converted.keys() == plain.state_dict().keys()
    assert not report.dropped


@pytest.mark.parametrize('depth', (18, 50))
@pytest.mark.parametrize(
    ('kinds', 'settings'),
    [
        ((ResNetV1c, RFAResNetV1c), {}),
        ((ResNetV1d, RFAResNet), dict(deep_stem=True, avg_down=True)),
        ((ResNet, RFAResNet), dict(style='caffe')),
        (
            (ResNet, RFAResNet),
            dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
        ),
        (
            (ResNetV1c, RFAResNetV1c),
            dict(
                strides=(1, 2, 1, 1),
                dilations=(1, 1, 2, 4),
                contract_dilation=True,
            ),
        ),
        (
            (ResNet, RFAResNet),
            dict(
                strides=(1, 2, 1, 1),
                dilations=(1, 1, 2, 4),
                multi_grid=(1, 2, 4),
            ),
        ),
    ],
    ids=['v1c', 'v1d', 'caffe', 'os16', 'v1c-os8-contract', 'multi-grid'],
)
def test_features_stay_in_every_variant(kinds, settings, depth):
    of_v1d = kinds[0] is ResNetV1d
    plain = random_plain(kinds[0], depth, **({} if of_v1d else settings))
    net, _ = converted(plain, RFA, kinds[1], depth, **settings)
    assert far(net, plain, torch.randn(1, 3, 64, 64)) < 1e-5


def test_chosen_stages_only():
    plain = random_plain()
    net, _ = converted(
        plain, RFA, stage_with_attention_conv=(False, True, False, True)
    )
    assert type(net.layer1[0].conv1) is nn.Conv2d
    assert isinstance(net.layer2[0].conv1, AttentionConv2d)
    assert far(net, plain, torch.randn(1, 3, 64, 64)) < 1e-5


@pytest.mark.parametrize(
    'naming', ['torchvision', 'mmseg', 'mmpretrain', 'ddp']
)
@pytest.mark.parametrize('kind', (ResNet, ResNetV1c))
def test_every_naming_as_init_cfg(naming, kind, tmp_path):
    """One line in a config; heads do not disturb."""
    plain = random_plain(kind)
    state = dict(plain.state_dict())
    heads = {'fc.weight': torch.zeros(10, 128)}
    if naming != 'torchvision':
        if naming == 'mmpretrain':
            state = {
                re.sub(
                    r'^stem\.(\d)',
                    lambda m: (
                        f'stem.{int(m[1]) // 3}.'
                        + ('bn' if int(m[1]) % 3 else 'conv')
                    ),
                    key,
                ): value
                for key, value in state.items()
            }
        prefix = 'module.backbone.' if naming == 'ddp' else 'backbone.'
        state = {f'{prefix}{key}': value for key, value in state.items()}
        heads = {
            'decode_head.conv_seg.weight': torch.zeros(3, 4),
            'head.fc.weight': torch.zeros(10, 128),
        }
    file = tmp_path / 'plain.pth'
    torch.save({'state_dict': {**state, **heads}}, file)
    net = (RFAResNetV1c if kind is ResNetV1c else RFAResNet)(
        18,
        attention_conv=RFA,
        init_cfg=dict(type='PretrainedResNet', checkpoint=str(file)),
        **SMALL,
    )
    net.init_weights()
    assert far(net.eval(), plain, torch.randn(1, 3, 64, 64)) < 1e-5
    before = net.layer1[0].conv1.weight.clone()
    net.init_weights()
    after = net.layer1[0].conv1.weight
    assert torch.equal(before, after)


@pytest.mark.parametrize('conv', CONVS, ids=name_of)
def test_everything_learns(conv):
    """No parameter of an operator is dead, in training mode.

    A bias in front of a batch norm has no effect, whatever one starts from.
    """
    torch.manual_seed(1)
    # Wide enough that no hidden ReLU is dead by chance.
    net, _ = converted(random_plain(base_channels=32), conv, base_channels=32)
    net.train()
    learns = set()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        x = torch.rand(2, 3, 64, 64)
        target = x.mean((2, 3))
        out = [y.mean((2, 3))[:, :3] for y in net(x)]
        loss = sum((y - target).square().mean() for y in out)
        (loss + sum(y.std(0).mean() for y in out)).backward()
        optimizer.step()
        learns |= {
            key for key, p in net.named_parameters() if p.grad.abs().max() > 0
        }
    operators = operators_in(net)
    for key, _ in net.layer1[0].conv1.named_parameters():
        if not key.endswith(('squeeze.bias', 'attn.bias')):
            count = sum(f'{name}.{key}' in learns for name in operators)
            # A gate of two hidden units may be dead by chance.
            assert count >= len(operators) // 2, key


@pytest.mark.parametrize('conv', CONVS, ids=name_of)
def test_training_mode_is_close_once_calibrated(conv):
    """With the training images; exactly where no batch norm is on the way."""
    images = torch.rand(8, 3, 96, 96) * 2 - 0.5
    plain = random_plain()
    for module in plain.modules():  # statistics that belong to the weights
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1
    plain.train()
    with torch.no_grad():
        plain(images)
    net, _ = converted(plain, conv)
    plain.eval()
    assert far(net, plain, images) < 1e-5
    neutral, _ = converted(plain, conv)
    has_features = net.layer1[0].conv1.feature_norm is not None
    if has_features:
        for operator in operators_in(neutral).values():
            set_moments(operator.feature_norm, 0, 1)
    estimated, _ = converted(plain, conv)
    modes = [module.training for module in net.modules()]
    assert calibrate(net, [images[:4], images[4:]]) == 2
    assert modes == [module.training for module in net.modules()]
    assert far(net, plain, images) < 1e-5
    for other in (plain, net, neutral, estimated):
        other.train()
    gaps = [far(n, plain, images) for n in (net, estimated, neutral)]
    if not has_features:
        assert max(gaps) < 1e-5
    else:
        assert gaps[0] < 0.02
        assert gaps[0] < gaps[1] < 0.9 * gaps[2]


def state_but(**changes):
    state = dict(random_plain().state_dict())
    for key, value in changes.items():
        key = key.replace('__', '.')
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


@pytest.mark.parametrize(
    ('state', 'words'),
    [
        (lambda: random_plain(depth=34).state_dict(), 'depth 18, got 34'),
        (lambda: random_plain(depth=50).state_dict(), 'depth 18, got 50'),
        (lambda: random_plain(ResNetV1c).state_dict(), 'deep_stem'),
        (lambda: random_plain(base_channels=8).state_dict(), 'shape'),
        (lambda: state_but(layer3__1__bn2__weight=None), 'layer3.1.bn2'),
        (
            lambda: state_but(layer2__0__conv2__offset=torch.zeros(1)),
            'layer2.0.conv2.offset',
        ),
        (
            lambda: converted(random_plain(), RFA)[0].state_dict(),
            'has an operator there already',
        ),
        (lambda: {'a.weight': torch.zeros(2)}, 'a.weight'),
        (
            lambda: {
                f'{p}{k}': v
                for p in ('a.', 'b.')
                for k, v in state_but().items()
            },
            "'a.', 'b.'",
        ),
    ],
    ids=[
        'depth34',
        'depth50',
        'stem',
        'width',
        'missing',
        'offset',
        'converted',
        'foreign',
        'two',
    ],
)
def test_misfits_are_named_and_change_nothing(state, words):
    net = RFAResNet(18, attention_conv=RFA, **SMALL)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(InputError) as error:
        fill_from_plain(net, state(), 'file.pth')
    assert words in str(error.value)
    assert 'file.pth' in str(error.value)
    after = net.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
