"""Every operator keeps the contract of nn.Conv2d."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from mmrfa.conversion import calibrate
from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS, AWConv, RFAConv, RFCAConv, RFCBAMConv
from mmrfa.layers.norm import set_moments
from mmrfa.layers.parts import conv_norm
from mmrfa.ops import BACKENDS, rfa_conv2d, use_backend
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
    layer = RFAConv(4, 4, 3).eval()
    layer.norm.train()
    with pytest.raises(InputError, match='got norm in training mode'):
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
def test_norm_of_the_batch_under_autocast(variant):
    """Its weight stays in float32."""
    layer = make(variant, 4, 6, 3)
    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                bare = nn.BatchNorm2d(child.num_features)
                bare.running_mean = bare.running_var = None
                bare.track_running_stats = False
                setattr(parent, name, bare)
    x = torch.randn(8, 4, 9, 9)
    expected = layer(x)
    with torch.autocast('cpu', torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 0.05


@pytest.mark.parametrize('operator', [RFAConv, RFCBAMConv, RFCAConv])
def test_norm_without_a_bias(operator):
    layer = operator(4, 4, 3).double()
    zero = copy.deepcopy(layer)
    layer.norm.bias = None
    x = torch.randn(2, 4, 6, 6).double()
    for mode in True, False:
        found, expected = layer.train(mode)(x), zero.train(mode)(x)
        torch.testing.assert_close(found, expected)


@every_variant
def test_several_gradients_at_once(variant):
    layer = make(variant, 4, 6, 3)
    x = torch.randn(2, 4, 7, 7, requires_grad=True)
    sums = layer(x).sum((0, 2, 3))
    inputs = [x, *layer.parameters()]
    each = [
        torch.autograd.grad(value, inputs, retain_graph=True) for value in sums
    ]
    at_once = torch.autograd.grad(
        sums, inputs, torch.eye(len(sums)), is_grads_batched=True
    )
    for found, *expected in zip(at_once, *each):
        torch.testing.assert_close(found, torch.stack(expected))


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


@pytest.mark.parametrize(
    ('operator', 'arguments', 'words'),
    [
        (RFCAConv, dict(reduction=0), 'reduction must be an integer of at'),
        (RFCAConv, dict(reduction='16'), 'reduction must be an integer'),
        (AWConv, dict(reduction=0), 'reduction must be an integer of at'),
        (RFCBAMConv, dict(hidden=0), 'hidden must be an integer of at least'),
        (RFAConv, dict(norm_cfg='BN'), 'norm_cfg: expected a dict'),
        (RFAConv, dict(norm_cfg=dict(momentun=0.1)), 'momentun'),
        (
            RFAConv,
            dict(mode='unfold', start='neutral', norm_cfg=dict(affine=False)),
            'expected a batch norm with weight',
        ),
    ],
)
def test_widths_and_norms(operator, arguments, words):
    with pytest.raises(InputError, match=words):
        operator(4, 8, 3, **arguments)


def test_a_refused_start_changes_nothing():
    layer = RFAConv(4, 8, 3)
    before = copy.deepcopy(layer.state_dict())
    weight = torch.randn(8, 4, 3, 3)
    for arguments, words in (
        (dict(bias=torch.zeros(3)), 'expected a bias of shape .8,., got .3'),
        (dict(bias=torch.zeros(1)), 'expected a bias of shape'),
        (dict(floor=-1.0), 'floor of 0 or more, got -1'),
        (dict(floor=float('nan')), 'floor of 0 or more, got nan'),
    ):
        with pytest.raises(InputError, match=words):
            layer.start_as_conv(weight, **arguments)
    for cfg in dict(affine=False), dict(track_running_stats=False):
        other = RFAConv(4, 8, 3, norm_cfg=cfg)
        with pytest.raises(InputError, match='expected a batch norm with'):
            other.start_as_conv(weight)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key
    layer.eval().fold_norms()
    for start in layer.start_as_conv, lambda w: calibrate(layer, [w]):
        with pytest.raises(InputError, match='got Identity'):
            start(weight)


@every_variant
@pytest.mark.parametrize(
    'change',
    [parametrizations.weight_norm, lambda m: prune.identity(m, 'weight')],
)
def test_what_is_computed_is_not_written(variant, change):
    """A pruned or parametrised weight would stay what it was."""
    layer = make(variant, 32, 32, 3)
    change(layer)
    words = 'got weight, which pruning or a parametrization computes'
    with pytest.raises(InputError, match=f'start_as_conv needs .*{words}'):
        layer.start_as_conv(torch.randn(32, 32, 3, 3))
    layer = RFAConv(4, 8, 3, start='neutral')
    parametrizations.weight_norm(layer.attn)
    with pytest.raises(InputError, match='a neutral start .* attn.weight'):
        layer.reset_parameters()
    with pytest.raises(InputError, match='fold_norms needs .* attn.weight'):
        layer.eval().fold_norms()


def test_a_start_from_what_it_has_itself():
    layer = RFAConv(4, 8, 3).eval()
    conv = nn.Conv2d(4, 8, 3)
    with torch.no_grad():
        conv.weight.copy_(layer.weight)
        conv.bias.copy_(layer.bias)
    layer.start_as_conv(layer.weight, layer.bias, floor=0.3)
    x = torch.rand(2, 4, 9, 8) - 0.3
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-4, atol=1e-5)
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([1.0, 2, 3]))
        norm.running_var.copy_(torch.tensor([4.0, 5, 6]))
    set_moments(norm, norm.running_mean, norm.running_var)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(norm.eval()(x), x)


def test_the_start_behind_another_constructor():
    class Named:
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.name = 'name'

    class Mine(Named, RFAConv):
        pass

    layer = Mine(4, 8, 3, start='neutral')
    assert layer.name == 'name' and not layer.attn.weight.any()
    assert 'constructing' not in str(vars(layer))


def test_statistics_stay_where_they_are_not_tracked():
    """As in nn.BatchNorm2d, also where the switch is thrown later."""
    x = torch.randn(2, 4, 9, 8)
    layer = RFAConv(4, 8, 3)
    expected = layer(x)  # of the batch, either way
    layer = copy.deepcopy(layer)
    layer.norm.reset_running_stats()
    layer.norm.track_running_stats = False
    for backend in (None, 'reference'):
        with use_backend(backend):
            torch.testing.assert_close(layer(x), expected)
        assert layer.norm.running_mean.abs().sum() == 0
        assert layer.norm.num_batches_tracked == 0


def test_hooks_that_rewrite_a_weight_of_the_attention_are_refused():
    """They would do so once, since nobody calls that layer's forward."""
    layer = RFAConv(4, 8, 3)
    keys = list(layer.state_dict())
    with pytest.raises(InputError, match='got weight_orig; leave out'):
        prune.l1_unstructured(layer.feature, 'weight', 0.3)
    assert sorted(layer.state_dict()) == sorted(keys)
    with pytest.raises(InputError, match='got weight_orig; leave out'):
        nn.utils.spectral_norm(layer.feature)
    layer(torch.randn(1, 4, 6, 6))  # it has its weight still
    with pytest.raises(InputError, match='got weight_g; leave out'):
        nn.utils.weight_norm(layer.attn)
    layer = RFAConv(4, 8, 3)
    layer.feature.register_forward_pre_hook(print)  # as profilers do
    prune.l1_unstructured(layer, 'weight', 0.3)
    parametrizations.weight_norm(layer.feature)
    for _ in range(2):
        layer(torch.randn(1, 4, 6, 6)).sum().backward()


def test_the_input_by_name():
    x = torch.randn(1, 4, 6, 6)
    layer = RFAConv(4, 8, 3)
    options = dict(
        gain=layer.attn.weight,
        feature=conv_norm(layer.feature, layer.norm),
        conv=layer.conv,
        window=layer.window,
    )
    assert torch.equal(rfa_conv2d(x=x, **options), rfa_conv2d(x, **options))


def test_a_child_that_a_property_would_hide():
    class Named(RFAConv):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.conv = torch.nn.Conv2d(3, 3, 1)

    with pytest.raises(InputError, match='Named: .*another name than conv'):
        Named(3, 4, 3)
