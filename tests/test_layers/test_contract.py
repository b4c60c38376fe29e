"""Every operator keeps the contract of nn.Conv2d."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS, AWConv, RFAConv, RFCBAMConv
from mmrfa.ops import BACKENDS, use_backend
from mmrfa.testing import OperatorContract

VARIANTS = {
    **{operator.__name__: (operator, {}) for operator in OPERATORS},
    'RFAConv-unfold': (RFAConv, dict(mode='unfold')),
    'AWConv-se': (AWConv, dict(activation='se')),
    'AWConv-cam': (AWConv, dict(activation='cam')),
    'AWConv-cbam': (AWConv, dict(activation='cbam')),
    'AWConv-ca': (AWConv, dict(activation='ca')),
}
for _name, (_operator, _arguments) in VARIANTS.items():
    _test = f'Test{_name.replace("-", "_")}'
    globals()[_test] = type(
        _test,
        (OperatorContract,),
        dict(
            operator=_operator,
            arguments=_arguments,
            # in training mode batch norm takes out every shift before it
            silent={'attn.bias', 'gate.squeeze.bias'},
        ),
    )
del _test
pytestmark = pytest.mark.usefixtures('own_choice')
every_variant = pytest.mark.parametrize('variant', VARIANTS)


def make(variant, *args, **kwargs):
    operator, extra = VARIANTS[variant]
    return operator(*args, **kwargs, **extra)


@every_variant
def test_fold_norms_keeps_the_output(variant):
    layer = make(variant, 32, 6, 3, padding=1)
    x = torch.randn(2, 32, 7, 6)
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    with pytest.raises(InputError, match='fold_norms needs eval mode'):
        layer.fold_norms()
    layer.eval()
    for backend in BACKENDS:
        reference = copy.deepcopy(layer)
        folded = copy.deepcopy(layer).fold_norms()
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        try:
            with use_backend(backend):
                got = folded(x)
        except RuntimeError as error:  # the reason names the backend
            assert f"backend '{backend}' cannot run" in str(error)
            continue
        torch.testing.assert_close(got, reference(x), rtol=1e-4, atol=1e-5)
        gradient = torch.autograd.grad(got.sum(), folded.weight)[0]
        assert gradient.isfinite().all() and gradient.any()


def test_fold_norms_needs_running_statistics():
    layer = RFAConv(4, 4, 3).eval()
    layer.norm = nn.BatchNorm2d(36, track_running_stats=False)
    with pytest.raises(InputError, match='running statistics, norm has none'):
        layer.fold_norms()


NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
CONV = ['weight', 'bias']
COORDINATE = [
    'gate.squeeze.weight',
    'gate.squeeze.bias',
    *(f'gate.norm.{name}' for name in NORM),
    *(f'gate.expand_{a}.{b}' for a in 'hw' for b in ('weight', 'bias')),
]
FEATURE = ['feature.weight', *(f'norm.{name}' for name in NORM)]
KEYS = {
    'RFAConv': ['attn.weight', *FEATURE],
    'RFAConv-unfold': ['attn.weight', 'attn.bias', *FEATURE[1:]],
    'RFCBAMConv': [
        *FEATURE,
        'squeeze.weight',
        'expand.weight',
        'spatial.weight',
    ],
    'RFCAConv': [*FEATURE, *COORDINATE],
    'CAMConv': ['gate.squeeze.weight', 'gate.expand.weight'],
    'CBAMConv': [
        'gate.0.squeeze.weight',
        'gate.0.expand.weight',
        'gate.1.conv.weight',
    ],
    'CAConv': COORDINATE,
    'AWConv': [
        'squeeze.weight',
        *(f'squeeze_norm.{name}' for name in NORM),
        'expand.weight',
        *(f'expand_norm.{name}' for name in NORM),
        'fan_out.weight',
        'fan_out.bias',
    ],
}


@pytest.mark.parametrize('variant', KEYS)
def test_state_dict_keys_are_pinned(variant):
    """Checkpoints depend on them."""
    keys = make(variant, 4, 6, 3).state_dict()
    assert set(keys) == {*CONV, *KEYS[variant]}
    assert keys['weight'].shape == (6, 4, 3, 3)


def test_published_widths():
    assert RFCBAMConv(512, 512, 3).squeeze.out_channels == 16
    assert make('CAMConv', 64, 64, 3).gate.squeeze.out_channels == 4
    assert make('CAConv', 64, 64, 3).gate.squeeze.out_channels == 8
    assert make('RFCAConv', 512, 64, 3).gate.squeeze.out_channels == 16


def test_bad_choices():
    with pytest.raises(InputError, match="'group' or 'unfold', got 'x'"):
        RFAConv(4, 4, 3, mode='x')
    with pytest.raises(InputError, match="one of se, cam, cbam, ca, got 'x'"):
        AWConv(4, 4, 3, activation='x')


@every_variant
def test_sync_batch_norm_can_be_chosen_and_converted(variant):
    layer = make(variant, 4, 4, 3, norm_cfg=dict(type='SyncBN', eps=0.1))
    norms = [m for m in layer.modules() if isinstance(m, nn.SyncBatchNorm)]
    others = [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not others
    assert all(norm.eps == 0.1 for norm in norms)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(make(variant, 4, 4, 3))
    assert converted.state_dict().keys() == layer.state_dict().keys()


def test_norm_can_be_frozen_from_the_config():
    layer = RFAConv(4, 4, 3, norm_cfg=dict(type='BN', requires_grad=False))
    assert not layer.norm.weight.requires_grad
    assert layer.weight.requires_grad


def test_aw_maps_serve_neighbouring_channels():
    """r = 2 on 6 channels: 3 maps, channels 0-1, 2-3 and 4-5 share one."""
    layer = AWConv(6, 2, 3, reduction=2).eval()
    nn.init.zeros_(layer.fan_out.weight)
    with torch.no_grad():
        layer.fan_out.bias.copy_(torch.tensor([-9.0, 0, 9, 9, 0, -9]))
        gates = layer.fan_out.bias.sigmoid().view(2, 3)
        weight = layer.weight * gates.repeat_interleave(2, 1)[:, :, None, None]
        x = torch.randn(2, 6, 7, 7)
        torch.testing.assert_close(layer(x), F.conv2d(x, weight, layer.bias))


@every_variant
def test_checkpoints_with_the_former_names_load(variant):
    """Weight and bias were those of a child named conv."""
    layer = make(variant, 4, 6, 3)
    former = layer.state_dict()
    for name in ('weight', 'bias'):
        former[f'conv.{name}'] = former.pop(name)
    net = nn.Sequential(nn.ReLU(), make(variant, 4, 6, 3))
    net.load_state_dict({f'1.{k}': v for k, v in former.items()}, strict=True)
    assert torch.equal(net[1].weight, layer.weight)
    assert torch.equal(net[1].bias, layer.bias)
    bare = {k: v for k, v in former.items() if k != 'conv.bias'}
    make(variant, 4, 6, 3, bias=False).load_state_dict(bare, strict=True)


def test_norms_other_than_batch_norm_run_by_the_reference():
    layer = RFAConv(4, 4, 3)
    layer.norm = nn.GroupNorm(4, 36)
    x = torch.randn(2, 4, 6, 6)
    assert layer(x).isfinite().all()
    with use_backend('fused'), pytest.raises(RuntimeError, match='GroupNorm'):
        layer(x)


def test_norm_without_running_statistics():
    layer = RFAConv(4, 4, 3).double()
    layer.norm = nn.BatchNorm2d(36, track_running_stats=False).double()
    x = torch.randn(2, 4, 6, 6).double()
    expected = layer(x)
    torch.testing.assert_close(layer.eval()(x), expected)


@every_variant
def test_unknown_norm(variant):
    if variant in ('CAMConv', 'CBAMConv'):
        return  # they have no norm
    with pytest.raises(InputError, match="expected type BN.*got 'GN'"):
        make(variant, 4, 6, 3, norm_cfg=dict(type='GN'))


@every_variant
def test_a_plain_convolution_does_not_fill_an_operator(variant):
    """Its weight has the same name and shape, and another meaning."""
    plain = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 3))
    net = nn.Sequential(nn.ReLU(), make(variant, 4, 6, 3))
    before = net[1].weight.clone()
    found = net.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(net[1].weight, before)
    assert '1.weight' in found.missing_keys
    with pytest.raises(RuntimeError, match='"1.weight"'):
        net.load_state_dict(plain.state_dict())
