"""Every operator keeps the contract of nn.Conv2d."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS, AWConv, RFAConv, RFCBAMConv
from mmrfa.ops import BACKENDS, use_backend

VARIANTS = {
    **{operator.__name__: (operator, {}) for operator in OPERATORS},
    'RFAConv-unfold': (RFAConv, dict(mode='unfold')),
    'AWConv-se': (AWConv, dict(activation='se')),
    'AWConv-cam': (AWConv, dict(activation='cam')),
    'AWConv-cbam': (AWConv, dict(activation='cbam')),
    'AWConv-ca': (AWConv, dict(activation='ca')),
}
every_variant = pytest.mark.parametrize('variant', VARIANTS)
every_operator = pytest.mark.parametrize(
    'operator', OPERATORS, ids=lambda op: op.__name__
)


def make(variant, *args, **kwargs):
    operator, extra = VARIANTS[variant]
    return operator(*args, **kwargs, **extra)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@every_variant
def test_output_size_is_that_of_conv2d(variant):
    kernels, strides, paddings, dilations = (
        (1, 2, 3),
        (1, 2, 3),
        (0, 1),
        (1, 2),
    )
    cases = 0
    for k, s, p, d, height in itertools.product(
        kernels, strides, paddings, dilations, (5, 6)
    ):
        args = (2, 4, k, s, p, d)
        x = torch.randn(1, 2, height, 7)
        assert make(variant, *args)(x).shape == nn.Conv2d(*args)(x).shape
        cases += 1
    assert cases == 72


@every_variant
def test_pairs_and_attributes_are_those_of_conv2d(variant):
    args = (4, 6, (3, 5), (1, 2), (0, 3), (2, 1), 2, False)
    ours, plain = make(variant, *args), nn.Conv2d(*args)
    x = torch.randn(2, 4, 9, 8)
    assert ours(x).shape == plain(x).shape
    for name in (
        'in_channels out_channels kernel_size stride padding dilation '
        'transposed output_padding groups padding_mode'
    ).split():
        assert getattr(ours, name) == getattr(plain, name), name
    assert ours.weight.shape == plain.weight.shape
    assert ours.bias is None
    assert make(variant, 4, 6, 3).bias.shape == (6,)
    for padding in ('same', 'valid'):
        args = (4, 6, 3, 1, padding, 2)
        assert make(variant, *args)(x).shape == nn.Conv2d(*args)(x).shape


@pytest.mark.usefixtures('own_choice')
@every_variant
def test_unbatched_and_empty_input(variant):
    layer = make(variant, 3, 4, 3).eval()
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(layer(x), layer(x[None])[0])
    assert layer(torch.randn(0, 3, 6, 5)).shape == (0, 4, 4, 3)


@pytest.mark.usefixtures('own_choice')
@every_variant
@pytest.mark.parametrize('kernel', [1, 3, 5, 7])
@pytest.mark.parametrize(
    'dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str
)
def test_every_parameter_gets_a_finite_gradient(variant, kernel, dtype):
    layer = make(variant, 64, 6, kernel, padding=kernel // 2, dtype=dtype)
    x = torch.randn(2, 64, 7, 5, dtype=dtype, requires_grad=True)
    y = layer(x)
    assert y.dtype == dtype
    y.float().pow(2).sum().backward()
    assert x.grad.isfinite().all()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    # In training mode batch norm takes out every shift before it.
    silent = {'attn.bias', 'gate.squeeze.bias'}
    for name, parameter in layer.named_parameters():
        if name not in silent and dtype == torch.float64 and kernel > 1:
            assert parameter.grad.abs().max() > 0, name


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


@every_variant
@pytest.mark.parametrize('kernel', [1, 3])
def test_one_value_per_channel_in_training_mode(variant, kernel):
    """nn.Conv2d takes it; batch norm alone would refuse."""
    layer = make(variant, 16, 4, kernel)
    y = layer(torch.randn(1, 16, kernel, kernel))
    assert y.shape == (1, 4, 1, 1)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.usefixtures('own_choice')
@every_variant
def test_autocast_and_bfloat16_stay_close(variant):
    layer = make(variant, 16, 8, 3, padding=1).eval()
    x = torch.randn(2, 16, 9, 8)
    exact = copy.deepcopy(layer).double()(x.double())
    with torch.autocast('cpu', torch.bfloat16):
        mixed = layer(x)
    assert mixed.dtype == torch.bfloat16
    half = copy.deepcopy(layer).bfloat16()(x.bfloat16())
    scale = exact.abs().max()
    for got in (mixed, half):
        assert (got - exact).abs().max() < 0.05 * scale
    assert (layer(x) - exact).abs().max() < 1e-5 * scale


@pytest.mark.usefixtures('own_choice')
@every_variant
def test_memory_layout_does_not_matter(variant):
    layer = make(variant, 4, 6, 3, 2, 1).double()
    x = torch.randn(2, 4, 9, 8).double()
    expected = layer(x)
    layouts = {
        'channels_last': x.contiguous(memory_format=torch.channels_last),
        'transposed': x.transpose(2, 3).contiguous().transpose(2, 3),
        'slice': torch.cat([x, x], 3)[..., :8],
    }
    for name, same in layouts.items():
        assert torch.equal(same, x), name
        torch.testing.assert_close(layer(same), expected)


@every_variant
def test_state_dict_round_trip_copy_and_pickle(variant):
    layer = make(variant, 4, 6, 3)
    layer(torch.randn(2, 4, 6, 6))  # moves the running statistics
    other = make(variant, 4, 6, 3)
    other.load_state_dict(layer.state_dict(), strict=True)
    copies = [other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    x = torch.randn(2, 4, 6, 6)
    for twin in copies:
        assert torch.equal(twin.eval()(x), layer.eval()(x))


NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
CONV = ['conv.weight', 'conv.bias']
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
    assert keys['conv.weight'].shape == (6, 4, 3, 3)


def test_published_widths():
    assert RFCBAMConv(512, 512, 3).squeeze.out_channels == 16
    assert make('CAMConv', 64, 64, 3).gate.squeeze.out_channels == 4
    assert make('CAConv', 64, 64, 3).gate.squeeze.out_channels == 8
    assert make('RFCAConv', 512, 64, 3).gate.squeeze.out_channels == 16


@every_variant
def test_init_weights(variant):
    """He's normal, fan out; the attention as torch starts it."""
    layer = make(variant, 64, 96, 3)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 7)
    layer.init_weights()
    deviation = (2 / (96 * 9)) ** 0.5
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert not layer.bias.any()
    for name, parameter in layer.named_parameters():
        assert parameter.abs().max() <= 1, name


@every_variant
def test_learns(variant):
    """A few steps on a fixed target bring the loss well down."""
    layer = make(variant, 4, 4, 3, padding=1)
    x = torch.randn(4, 4, 8, 8)
    target = torch.randn(4, 4, 8, 8)
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = (layer(x) - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@every_operator
@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(in_channels=0), 'in_channels must be .* at least 1, got 0'),
        (dict(out_channels=-3), 'out_channels must be .* got -3'),
        (dict(in_channels=2.0), 'in_channels must be an integer.*got 2.0'),
        (dict(kernel_size=0), 'kernel_size must be .* at least 1.* got 0'),
        (dict(kernel_size=(3, 3, 3)), r'kernel_size .*got \(3, 3, 3\)'),
        (dict(stride=-1), 'stride must be .* at least 1.* got -1'),
        (dict(padding=-1), 'padding must be .* at least 0.* got -1'),
        (dict(dilation=0), 'dilation must be .* at least 1.* got 0'),
        (dict(groups=0), 'groups must be .* got 0'),
        (dict(groups=3), 'in_channels must be divisible by groups=3, got 4'),
        (dict(groups=4), 'out_channels must be divisible by .*=4, got 6'),
        (dict(padding='same', stride=2), "padding='same' needs stride 1"),
        (dict(padding='other'), "padding must be .* got 'other'"),
        (dict(padding_mode='reflect'), "padding_mode must be 'zeros'"),
        (dict(norm_cfg=dict(type='GN')), "expected type BN.*got 'GN'"),
    ],
    ids=str,
)
def test_bad_arguments(operator, kwargs, message):
    if 'norm_cfg' in kwargs and operator.__name__ in ('CAMConv', 'CBAMConv'):
        return  # they have no norm
    given = dict(in_channels=4, out_channels=6, kernel_size=3) | kwargs
    with pytest.raises(InputError, match=message) as error:
        operator(**given)
    assert '\n' not in str(error.value)


@every_operator
def test_bad_input(operator):
    layer = operator(4, 6, 3, dilation=2)
    with pytest.raises(
        InputError, match=r'\(N, 4, H, W\), got \(1, 5, 9, 9\)'
    ):
        layer(torch.randn(1, 5, 9, 9))
    with pytest.raises(InputError, match='at least 5x5 pixels.*got 4x9'):
        layer(torch.randn(1, 4, 4, 9))
    with pytest.raises(InputError, match=r'got \(9, 9\)'):
        layer(torch.randn(9, 9))


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
    assert layer.conv.weight.requires_grad


def test_aw_maps_serve_neighbouring_channels():
    """r = 2 on 6 channels: 3 maps, channels 0-1, 2-3 and 4-5 share one."""
    layer = AWConv(6, 2, 3, reduction=2).eval()
    nn.init.zeros_(layer.fan_out.weight)
    with torch.no_grad():
        layer.fan_out.bias.copy_(torch.tensor([-9.0, 0, 9, 9, 0, -9]))
        gates = layer.fan_out.bias.sigmoid().view(2, 3)
        plain = copy.deepcopy(layer.conv)
        plain.weight *= gates.repeat_interleave(2, 1)[:, :, None, None]
        x = torch.randn(2, 6, 7, 7)
        torch.testing.assert_close(layer(x), plain(x))
