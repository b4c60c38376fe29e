"""Converted networks: what they compute and keep, and what is refused."""

import copy
import logging
import math
import re
from collections import OrderedDict, deque
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

import mmrfa
from mmrfa import convert_convs, plan_convs
from mmrfa.conversion import calibrate
from mmrfa.conversion.sample import outputs, relative_error
from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS, AttentionConv2d, AWConv, CAMConv, RFAConv

NAMES = [kind.__name__ for kind in OPERATORS]
# What a ReLU in the operator has to let pass.
FEATURES = 'RFAConv', 'RFCBAMConv', 'RFCAConv'
pytestmark = pytest.mark.usefixtures('own_choice')


class Block(nn.Module):
    """Residual, with an activation that goes below zero."""

    def __init__(self, channels, act):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.act = act
        self.conv2 = nn.Conv2d(channels, channels, 3, padding='same')

    def forward(self, x):
        return self.act(self.conv2(self.act(self.norm1(self.conv1(x)))) + x)


class Net(nn.Module):
    """A stem, blocks, and one convolution of each further kind."""

    def __init__(self, act):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.act = act
        self.blocks = nn.Sequential(Block(8, act), Block(8, act))
        self.down = nn.Conv2d(8, 12, 3, 2, 2, dilation=2, groups=4)
        self.deep = nn.Conv2d(12, 12, 5, padding=2, groups=12)
        self.point = nn.Conv2d(12, 6, 1)

    def forward(self, x):
        x = self.blocks(self.act(self.stem(x)))
        x = self.act(self.deep(self.act(self.down(x))))
        return {'out': (self.point(x),), 'size': x.shape[2:]}


THREES = [f'blocks.{i}.conv{j}' for i in (0, 1) for j in (1, 2)] + ['down']


def make(act=None):
    net = Net(act or nn.SiLU()).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.bias)
    return net


def images():
    return torch.randn(2, 3, 13, 16)


def far(ours, theirs, x=None):
    x = images() if x is None else x
    return relative_error(outputs(ours, x), outputs(theirs, x))


def operators_in(net):
    return [
        name
        for name, module in net.named_modules()
        if isinstance(module, AttentionConv2d)
    ]


def replaced(plan):
    return [row.name for row in plan.replaced]


def why(plan, name=''):
    (row,) = (row for row in plan.rows if row.name == name)
    return row.why


@pytest.mark.parametrize('operator', NAMES)
@pytest.mark.parametrize('act', [nn.ReLU, nn.SiLU, nn.Hardswish])
def test_exact_start(operator, act):
    net = make(act())
    before = copy.deepcopy(net.state_dict())
    new = convert_convs(net, operator)
    assert operators_in(new) == THREES and not operators_in(net)
    assert far(new, net) < 1e-6
    state = net.state_dict()
    assert all(torch.equal(before[key], state[key]) for key in before)
    # names outside of the operators, and of their sums, stay
    assert before.keys() <= new.state_dict().keys()
    new.train()(images())['out'][0].sum().backward()
    changed = dict(new.named_parameters())['blocks.0.conv1.weight']
    assert changed.grad.isfinite().all() and changed.grad.any()


def test_floor_needs_a_bias_and_a_plain_start_none():
    rows = {row.name: row for row in plan_convs(make(), 'RFAConv').rows}
    assert rows['blocks.0.conv1'].floor == 0.28
    new = convert_convs(make(), 'RFAConv')
    assert new.blocks[0].conv1.bias is not None
    new = convert_convs(make(nn.ReLU()), 'RFAConv')
    assert new.blocks[0].conv1.bias is None
    assert convert_convs(make(), 'CAMConv').blocks[0].conv1.bias is None
    net = make(nn.ReLU())
    new = convert_convs(net, 'RFAConv', bias=True)
    assert not new.blocks[0].conv1.bias.any() and far(new, net) < 1e-6
    for start in 'exact', 'fresh':
        new = convert_convs(net, 'CAMConv', start=start)
        assert new.blocks[0].conv2.bias is not None
    with pytest.raises(InputError, match='expected no bias and no floor'):
        convert_convs(make(), 'RFAConv', bias=False)


def test_residual_is_known_and_an_image_is_measured():
    """The stem sees the image: no graph tells how far below zero it gets."""
    net = make()
    x = images()
    with pytest.raises(InputError) as error:
        convert_convs(net, 'RFCAConv', where=3, exclude='deep')
    assert 'first: stem' in str(error.value) and 'sample=' in str(error.value)
    plan = plan_convs(net, 'RFCAConv', where=3)
    assert plan.problem == str(error.value) and plan.problem in str(plan)
    assert replaced(plan)[0] == 'stem' and plan.rows[0].floor is None
    plan = plan_convs(net, 'RFCAConv', where=3, sample=x)
    assert plan.problem is None
    assert plan.rows[0].floor == pytest.approx(-2 * float(x.min()))
    assert plan.rows[1].floor == 0.28  # by the graph, tighter
    new = convert_convs(net, 'RFCAConv', where=3, sample=x)
    assert far(new, net, 1.9 * x) < 1e-5
    # and where neither is asked to be exact, nothing has to be known
    assert 'stem' in operators_in(
        convert_convs(net, 'RFCAConv', where=3, start='fresh')
    )
    assert far(convert_convs(net, 'AWConv', where=3), net) < 1e-6


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.act = nn.GELU()
        self.conv = nn.Conv2d(4, 4, 3)
        self.last = nn.Conv2d(4, 4, 3)
        self.unused = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        return self.last(self.conv(self.act(self.stem(x))).tanh() - 1)


def test_without_a_graph_the_sample_tells():
    net = Untraceable()
    plan = plan_convs(net, 'RFAConv', exclude='unused')
    assert '2 with an unknown one (first: conv)' in plan.problem
    x = images()
    plan = plan_convs(net, 'RFAConv', exclude='unused', sample=x)
    floors = [row.floor for row in plan.replaced]
    assert floors[0] == 0.172  # of the module in front
    assert 2 < floors[1] <= 4  # measured
    new = convert_convs(net, 'RFAConv', exclude='unused', sample=x)
    assert far(new, net) < 1e-5
    with pytest.raises(InputError, match='the sample does not reach them'):
        convert_convs(net, 'RFAConv', sample=x)
    assert 'unused' in operators_in(convert_convs(net, 'CAMConv', sample=x))


def test_what_runs_is_worth_more_than_the_graph():
    """A hook for all modules, which no graph has, shifts the ReLU."""
    net = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3))

    def shift(module, args, output):
        return output - 3 if isinstance(module, nn.ReLU) else None

    hook = register_module_forward_hook(shift)
    try:
        plan = plan_convs(net, 'RFAConv', where=3, sample=images())
    finally:
        hook.remove()
    assert [row.floor for row in plan.rows] == [6]
    plan = plan_convs(net, 'RFAConv', where=3, sample=images())
    assert [row.floor for row in plan.rows] == [0]


def test_what_is_asked_for():
    net = make()

    def names(**kwargs):
        return replaced(plan_convs(net, 'CAMConv', **kwargs))

    assert names() == THREES
    assert names(where=3) == ['stem', *THREES]
    assert names(where=(5, 5)) == ['deep']
    assert names(where=1) == ['point']
    assert names(where='blocks.*') == THREES[:-1]
    assert names(where=['down', '*.0.conv?']) == [*THREES[:2], 'down']
    assert names(where=re.compile(r'conv1$')) == THREES[:-1:2]
    assert names(where=lambda name, conv: conv.stride == (2, 2)) == [
        'stem',
        'down',
    ]
    assert names(exclude='blocks.0.*') == THREES[2:]
    assert names(exclude=lambda name, conv: conv.bias is None) == [
        'blocks.0.conv2',
        'blocks.1.conv2',
        'down',
    ]
    rows = {row.name: row for row in plan_convs(net, 'CAMConv').rows}
    assert not rows['stem'].asked and 'first' in rows['stem'].why
    assert rows['deep'].why == 'kernel 5x5'
    plan = plan_convs(net, 'CAMConv', where='down', exclude='down')
    assert '1 in exclude' in plan.problem


@pytest.mark.parametrize('argument', ['where', 'exclude'])
@pytest.mark.parametrize(
    'choice',
    ['layer9.*', ['down', 'nothing'], re.compile('^conv'), 3.0, (0, 3), True]
    + [[], '', (3, 3, 3), nn.ReLU()],
)
def test_patterns_that_fit_nothing(argument, choice):
    refused(make(), 'CAMConv', f'{argument}: expected', **{argument: choice})


def refused(net, operator, words, **kwargs):
    """Check that a call ends in one clear line and leaves the network."""
    before = [(n, m, m.training) for n, m in net.named_modules()]
    state = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError) as error:
        convert_convs(net, operator, inplace=True, **kwargs)
    assert re.search(words, str(error.value)), error.value
    assert '\n' not in str(error.value)
    assert [(n, m, m.training) for n, m in net.named_modules()] == before
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ('operator', 'kwargs', 'words'),
    [
        ('RFConv', {}, "expected one of RFAConv, .*, got 'RFConv'"),
        (nn.Conv2d, {}, 'a subclass of AttentionConv2d, got'),
        ('RFAConv', dict(start='plain'), "'exact' or 'fresh', got 'plain'"),
        (
            'RFAConv',
            dict(hidden=3),
            "among bias, mode, norm_cfg, start, got 'hidden'",
        ),
        ('RFAConv', dict(stride=2), 'expected stride from the convolution'),
        ('RFAConv', dict(mode='x'), "5 RFAConv: mode must be .*, got 'x'"),
        ('AWConv', dict(reduction=0), 'reduction must be an integer of at'),
        ('AWConv', dict(norm_cfg=dict(type=[])), '}}: TypeError: unhash'),
        ('CAMConv', dict(norm_cfg=2, where='stem*', exclude='st*'), '1 in ex'),
        ('CAMConv', dict(sample=7), 'sample: expected a tensor, .* got int'),
        ('CAMConv', dict(sample=[1]), 'a tensor in it, got none'),
        ('CAMConv', dict(sample=torch.ones(1, 4, 9, 9)), 'got RuntimeError'),
        ('CAMConv', dict(sample=dict(y=torch.ones(1))), 'got TypeError'),
        (
            'CAMConv',
            dict(sample=torch.ones(1, 3, 9, 9, device='meta')),
            'on the device of the network, cpu, got meta',
        ),
        ('CAMConv', dict(tolerance='1e-4'), "of at least 0, got '1e-4'"),
        ('CAMConv', dict(tolerance=math.nan), 'of at least 0, got nan'),
    ],
)
def test_bad_arguments(operator, kwargs, words):
    refused(make(), operator, words, **kwargs)


def test_networks_that_are_past_it(monkeypatch):
    refused(torch.compile(make()), 'RFAConv', 'before torch.compile')
    net = make()
    net.blocks[0].compile()
    refused(net, 'RFAConv', r'torch\.compile, got Block as blocks\.0')
    traced = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 3, 3)), images())
    refused(traced, 'RFAConv', 'before TorchScript')
    quantised = make()
    quantised.blocks[0].conv1 = torch.ao.nn.quantized.Conv2d(8, 8, 3)
    with pytest.raises(InputError, match='before quantisation, got Conv2d'):
        convert_convs(quantised, 'RFAConv', inplace=True)
    prepared = make()
    prepared.down.qconfig = torch.ao.quantization.default_qconfig
    refused(prepared, 'RFAConv', 'before quantisation, got Conv2d as down')
    net = make()
    with torch.inference_mode():
        refused(net, 'RFAConv', 'expected a call outside of torch.inference')
    with torch.inference_mode():
        net = make()
    with pytest.raises(InputError, match='got stem.weight made inside'):
        convert_convs(net, 'RFAConv')

    class Sharded(torch.Tensor):
        pass

    net = make()
    net.down.weight = nn.Parameter(net.down.weight.data.as_subclass(Sharded))
    with pytest.raises(InputError, match='got down.weight as Sharded'):
        convert_convs(net, 'RFAConv', inplace=True)
    with pytest.raises(InputError, match='expected an nn.Module, got None'):
        convert_convs(None, 'RFAConv')
    refused(nn.ReLU(), 'RFAConv', 'expected convolutions in it, got a ReLU')
    with pytest.raises(InputError, match='got blocks.0.conv1 on the meta dev'):
        convert_convs(make().to('meta'), 'RFAConv')
    convert_convs(make().to('meta'), 'RFAConv', start='fresh')
    with pytest.raises(InputError, match='values in it, got a meta tensor'):
        plan_convs(make().to('meta'), 'RFAConv', sample=images().to('meta'))


def test_distributed_and_sharded_networks(tmp_path):
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel

    distributed.init_process_group(
        'gloo', rank=0, world_size=1, init_method=f'file://{tmp_path}/store'
    )
    try:
        net = nn.parallel.DistributedDataParallel(make())
        refused(net, 'RFAConv', 'before DistributedDataParallel, got')
        net = FullyShardedDataParallel(make(), device_id=torch.device('cpu'))
        with pytest.raises(InputError, match='before FSDP shards it'):
            convert_convs(net, 'RFAConv', inplace=True)
        if hasattr(distributed, 'fsdp') and hasattr(
            distributed.fsdp, 'fully_shard'
        ):
            net = make()
            mesh = distributed.device_mesh.init_device_mesh('cpu', (1,))
            distributed.fsdp.fully_shard(net.blocks[0], mesh=mesh)
            with pytest.raises(InputError, match='before FSDP shards it'):
                convert_convs(net, 'RFAConv', inplace=True)
    finally:
        distributed.destroy_process_group()


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


def spoilt(kind):
    """A convolution that cannot be replaced, and the reason."""
    conv = nn.Conv2d(4, 4, 3)
    if kind == 'subclass':
        return OwnConv(4, 4, 3), 'OwnConv, a subclass of nn.Conv2d'
    if kind == 'transposed':
        conv = nn.ConvTranspose2d(4, 4, 3)
        return conv, 'transposed (ConvTranspose2d)'
    if kind == 'lazy':
        return nn.LazyConv2d(4, 3), 'LazyConv2d: not built before the network'
    if kind == 'volume':
        return nn.Conv3d(4, 4, (3, 3, 3)), 'Conv3d, not of nn.Conv2d'
    if kind == 'operator':
        return RFAConv(4, 4, 3), 'an operator already'
    if kind == 'parametrised':
        return parametrizations.weight_norm(conv), 'parametrised: weight'
    if kind == 'weight norm':
        return weight_norm(conv), 'it has weight_g, weight_v of its own'
    if kind == 'pruned':
        prune.l1_unstructured(conv, 'weight', 0.5)
        return conv, 'it has weight_orig, weight_mask of its own'
    if kind == 'hooked':
        conv.register_forward_hook(lambda *_: None)
        return conv, 'it has forward_hooks'
    if kind == 'hooked weight':
        conv.weight.register_hook(lambda g: g)
        return conv, 'it has hooks of weight'
    if kind == 'other forward':
        conv.forward = lambda x: x
        return conv, 'its forward was replaced'
    if kind == 'mode':
        conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode='reflect')
        return conv, "RFAConv: padding_mode must be 'zeros', got 'reflect'"
    if kind == 'same':
        conv = nn.Conv2d(4, 4, 2, padding='same')
        return conv, "RFAConv: padding='same' needs stride 1 and an odd"
    if kind == 'complex':
        conv = nn.Conv2d(4, 4, 3, dtype=torch.complex64)
        return conv, 'its weight is torch.complex64'
    if kind == 'attribute':
        conv.mode = 'of the network'
        return conv, 'its mode is something else in RFAConv'
    raise AssertionError(kind)


KINDS = (
    'subclass,transposed,lazy,volume,operator,parametrised,weight norm,pruned,'
    'hooked,hooked weight,other forward,mode,same,complex,attribute'
).split(',')


@pytest.mark.parametrize('kind', KINDS)
def test_single_convolutions_that_stay(kind, caplog):
    conv, reason = spoilt(kind)
    net = nn.Sequential(nn.ReLU(), conv, nn.ReLU(), nn.Conv2d(4, 4, 3))
    plan = plan_convs(net, 'RFAConv', where='*', start='fresh')
    assert why(plan, '1').startswith(reason)
    assert replaced(plan) == ['3']
    assert [row.name for row in plan.skipped] == ['1']
    assert reason in str(plan)
    convert_convs(net, 'RFAConv', where='*', start='fresh', inplace=True)
    assert net[1] is conv and isinstance(net[3], RFAConv)
    assert f'1 of 2 convolutions asked for stay (first: 1: {reason}' in (
        caplog.text
    )
    assert parametrize.is_parametrized(conv) == (kind == 'parametrised')


def test_tied_weights_stay_tied():
    net = make()
    net.blocks[1].conv1.weight = net.blocks[0].conv1.weight
    net.table = nn.Parameter(net.down.weight.data)  # the same memory
    plan = plan_convs(net, 'CAMConv')
    assert why(plan, 'blocks.0.conv1') == 'tied: blocks.1.conv1 has its ' + (
        'parameters'
    )
    assert why(plan, 'down').startswith('tied: the network has')
    assert replaced(plan) == ['blocks.0.conv2', 'blocks.1.conv2']


class Shares(nn.Module):
    """One module at several names."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.heads = nn.ModuleList([self.head, self.head])
        self.again = self.head[1]

    def forward(self, x):
        x = self.stem(x)
        for head in self.heads:
            x = head(x)
        return self.again(x.sigmoid() - 2) + self.head(x)


def test_shared_modules_are_converted_once():
    net = Shares()
    plan = plan_convs(net, 'RFAConv', where='again', sample=images())
    assert replaced(plan) == ['head.1'] and len(plan.rows) == 2
    assert plan.rows[1].floor == 2  # the least of four calls, by the graph
    assert plan.rows[1].flops[0] == 4 * 2 * 2 * 4 * 4 * 9 * 11 * 14
    new = convert_convs(net, 'RFAConv', sample=images())
    assert isinstance(new.again, RFAConv)
    assert new.again is new.head[1] is new.heads[0][1] is new.heads[1][1]
    assert far(new, net) < 1e-5


def test_convolutions_that_are_held_elsewhere():
    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three, self.four = (
                nn.Conv2d(3, 3, 3) for _ in range(4)
            )
            self.all = [self.one]
            self.table = {'both': [(self.two,), {self.four}]}
            self.table['itself'] = self.table
            self.bound = self.three.forward
            self.five, self.six = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
            self.more = OrderedDict(a=deque([partial(abs, self.six)]))
            four = self.five
            self.closure = lambda x: four(x)  # cannot be seen

        def forward(self, x):
            if x.sum() > 1e9:  # not for torch.fx
                return x
            x = self.all[0](x.relu()).relu()
            x = self.table['both'][0][0](x).relu()
            return self.closure(self.bound(x).relu())

    net = Hides()
    plan = plan_convs(net, 'CAMConv', where='*')
    assert why(plan, 'one') == 'all refers to it, unregistered'
    assert why(plan, 'two') == 'table refers to it, unregistered'
    assert why(plan, 'three') == 'bound refers to it, unregistered'
    assert why(plan, 'four') == 'table refers to it, unregistered'
    assert why(plan, 'six') == 'more refers to it, unregistered'
    refused(net, 'RFAConv', 'five to run where', where='five', sample=images())
    # nor that a weight is read by name, but the graph tells

    class Reads(nn.Sequential):
        def forward(self, x):
            return nn.functional.conv2d(x, self[0].weight) + self[1](x)

    net = Reads(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    plan = plan_convs(net, 'CAMConv', where=1)
    assert why(plan, '0') == '0.weight is read by others, too'
    assert replaced(plan) == ['1']

    class TakesOff(nn.Sequential):
        def forward(self, x):
            return super().forward(x) - self[1].bias.view(1, -1, 1, 1)

    net = TakesOff(nn.SiLU(), nn.Conv2d(3, 3, 1))
    plan = plan_convs(net, 'RFAConv', where=1)
    assert why(plan, '1') == '1.bias is read by others, too'


def test_calibrated_after_training():
    """Whatever the norms do by then, in eval mode all stays."""
    torch.manual_seed(3)
    layer = RFAConv(3, 4, 3).double()
    norm = layer.feature_norm
    for values in norm.weight, norm.bias, norm.running_mean:
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    layer.eval()
    x = torch.rand(6, 3, 9, 8, dtype=torch.float64)
    before = layer(x)
    assert calibrate(layer, [dict(input=x)]) == 1
    torch.testing.assert_close(layer(x), before, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.train()(x), before, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('inplace', [False, True])
@pytest.mark.parametrize('start', ['exact', 'fresh'])
def test_replaced_root(inplace, start):
    net = nn.Conv2d(3, 6, 3, bias=False)
    new = convert_convs(
        net, RFAConv, where='', start=start, sample=images(), inplace=inplace
    )
    assert type(new) is RFAConv and type(net) is nn.Conv2d
    assert (far(new, net) < 1e-5) == (start == 'exact')


def test_inplace_and_a_copy():
    net = make()
    new = convert_convs(net, 'CAMConv', inplace=True)
    assert new is net and operators_in(net) == THREES
    net = make()
    net.blocks[0].buffer = net.stem.weight * 1  # no leaf: cannot be copied
    refused(net, 'CAMConv', 'nothing', where='nothing')
    with pytest.raises(InputError, match='inplace=True makes no copy'):
        convert_convs(net, 'CAMConv')
    convert_convs(net, 'CAMConv', inplace=True)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_what_is_kept(dtype):
    net = make().to(dtype).to(memory_format=torch.channels_last).train()
    net.blocks[0].eval().requires_grad_(False)
    net.down.bias.requires_grad_(False)
    net.down.tag = 'mine'
    net.down.weight.decays = net.down.bias.decays = False
    x = images().to(dtype)
    new = convert_convs(net, 'RFAConv', sample=x, norm_cfg=dict(momentum=0.3))
    assert new.training and not new.blocks[0].training
    for name in THREES:
        old, op = net.get_submodule(name), new.get_submodule(name)
        assert op.norm.momentum == 0.3
        for module in op.modules():
            assert module.training == old.training
        for key, parameter in op.named_parameters():
            assert parameter.dtype == dtype
            frozen = name.startswith('blocks.0') or (
                (name, key) == ('down', 'bias')
            )
            assert parameter.requires_grad is not frozen
        assert op.weight.is_contiguous(memory_format=torch.channels_last)
        assert not op.weight.is_contiguous()
        assert op.stride == old.stride and op.groups == old.groups
        assert op.dilation == old.dilation
    assert new.down.tag == 'mine'
    assert far(new, net, x) < (1e-13 if dtype == torch.float64 else 0.1)
    for module, was in zip(net.modules(), make().modules()):
        assert type(module) is type(was)
    # a copy of a parameter has no attributes, one that is replaced has
    convert_convs(net, 'RFAConv', inplace=True, start='fresh')
    assert net.down.weight.decays is net.down.bias.decays is False


def test_put_back_when_the_outputs_differ():
    class Wrong(CAMConv):
        def _neutral(self):
            return 1.01 * super()._neutral()

    words = 'within 1.2e-04 .relative.* got 1..e-03'
    refused(make(), Wrong, words, sample=images())
    convert_convs(make(), Wrong, sample=images(), tolerance=0.01)
    refused(make(), RFAConv, 'within 0.0e', sample=images(), tolerance=0)

    class Nothing(CAMConv):
        _neutral = AttentionConv2d._neutral

    refused(make(), Nothing, 'no start from a plain convolution known')
    net = make()
    net.point.bias.data[0] = torch.inf
    refused(net, 'CAMConv', 'finite outputs of the net', sample=images())
    assert torch.isnan(
        torch.tensor(relative_error([images() * torch.nan], [images()]))
    )

    class Breaks(CAMConv):
        def _forward(self, x):
            raise KeyboardInterrupt

    net = make()
    with pytest.raises(KeyboardInterrupt):
        convert_convs(
            net, Breaks, sample=images(), inplace=True, start='fresh'
        )
    assert not operators_in(net)


@pytest.mark.parametrize(
    'arrange', [lambda x: (x,), lambda x: [x], lambda x: dict(x=x)]
)
def test_samples_of_several_arguments(arrange):
    plan = plan_convs(make(), 'CAMConv', sample=arrange(images()))
    assert plan.rows[1].flops[0] == 2 * 2 * 7 * 8 * 8 * 8 * 9


def test_sample_leaves_no_trace():
    net = nn.Sequential(make(), nn.Module()).train()
    net.forward = lambda x: net[0](x)
    net[0].stem.eval()
    state = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    plan = plan_convs(net, 'RFAConv', sample=images())
    torch.set_rng_state(random)
    images()
    expected = torch.get_rng_state()
    torch.set_rng_state(random)
    plan_convs(net, 'RFAConv', sample=images())
    assert torch.equal(torch.get_rng_state(), expected)
    assert net.training and net[0].blocks.training
    assert not net[0].stem.training
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    for module in net.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert len(plan.replaced) == 5
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(InputError, match='has run before, got 0.weight'):
        plan_convs(lazy, 'RFAConv', sample=images())
    assert replaced(plan_convs(lazy, 'RFAConv')) == ['2']


def test_report():
    net = make()
    plan = plan_convs(net, 'RFAConv', sample=images())
    new = convert_convs(net, 'RFAConv')
    for row in plan.replaced:
        old, op = net.get_submodule(row.name), new.get_submodule(row.name)
        counts = [sum(p.numel() for p in m.parameters()) for m in (old, op)]
        assert row.parameters == tuple(counts)
        pixels = 2 * (4 * 4 if row.name == 'down' else 7 * 8)
        assert row.flops[0] == 2 * pixels * old.weight.numel()
        assert row.flops[1] - row.flops[0] == 2 * pixels * 8 * 9 * 9
    lines = str(plan).splitlines()
    assert [len(re.findall('RFAConv', line)) for line in lines[1:6]] == [1] * 5
    assert len({line.index('RFAConv') for line in lines[1:6]}) == 1
    total = [sum(p.numel() for p in m.parameters()) for m in (net, new)]
    assert '5 of 8 convolutions; ' in lines[6]
    assert f'{total[0]:,} -> {total[1]:,}' in lines[6]
    assert lines[7] == (
        'not asked for: 1 the first convolution, which sees the image; '
        '1 kernel 5x5; 1 kernel 1x1'
    )


def test_report_is_logged_and_merging_methods_are_told(caplog):
    net = make()
    convert_convs(net, 'CAMConv')
    assert not caplog.records  # nothing to warn of
    Fusing = type('Fusing', (nn.Sequential,), dict(fuse=lambda self: None))
    net = Fusing(net)
    with caplog.at_level(logging.INFO, 'mmrfa'):
        convert_convs(net, 'CAMConv')
    table, warning = (record.getMessage() for record in caplog.records)
    assert table == str(plan_convs(net, 'CAMConv'))
    assert warning.endswith('Fusing.fuse') and 'Fusing.fuse' in table


def test_own_operator_and_arguments():
    class Mine(AWConv):
        def __init__(self, *args, scale=1.0, **kwargs):
            super().__init__(*args, **kwargs)
            self.scale = scale

    net = make()
    new = convert_convs(net, Mine, scale=2.0, reduction=4, activation='cbam')
    assert type(new.down) is Mine and new.down.scale == 2.0
    assert far(new, net) < 1e-6
    new = convert_convs(net, 'RFAConv', mode='unfold')
    assert far(new, net) < 1e-6 and new.blocks[0].conv1.bias is None


@pytest.mark.parametrize('operator', FEATURES)
def test_training_mode_is_near_once_calibrated(operator):
    """Behind SiLUs, where the norm has to keep the floor."""
    net = make()
    x = torch.randn(16, 3, 24, 24)
    near = convert_convs(net, operator)
    neutral = copy.deepcopy(near)
    assert calibrate(near, [x[:8], (x[8:],)]) == 2
    assert near.blocks[0].conv1.norm.running_var.max() < 0.9
    assert far(near, net, x) < 1e-6
    for module in near, neutral, net:
        # of the network itself: as in eval mode
        module.train().blocks[0].norm1.eval(), module.blocks[1].norm1.eval()
    gaps = [
        relative_error([n(x)['out'][0]], [net(x)['out'][0]])
        for n in (near, neutral)
    ]
    assert gaps[0] < 0.1 < 0.4 * gaps[1]


def test_calibrates_on_single_images():
    layers = [RFAConv(3, 4, 3), RFAConv(3, 4, 3)]
    layers[1].load_state_dict(layers[0].state_dict())
    images = torch.randn(4, 3, 8, 8)
    assert calibrate(layers[0], images) == 4  # each (C, H, W)
    assert calibrate(layers[1], [images]) == 1
    torch.testing.assert_close(
        layers[0].norm.running_var, layers[1].norm.running_var
    )


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_calibrates_on_what_it_can():
    """Or leaves the network as it is."""
    images = torch.randn(2, 3, 8, 8)
    bright = 1e25 * images
    for prepare, batch, words in (
        (lambda op: op, images[:0], None),
        (lambda op: op, bright, 'running_var of the norm of RFAConv'),
        (
            lambda op: parametrize.register_parametrization(
                op.norm, 'weight', Twice()
            ),
            images,
            'statistics of its own',
        ),
    ):
        layer = RFAConv(3, 4, 3)
        prepare(layer)
        before = copy.deepcopy(layer.state_dict())
        if words:
            with pytest.raises(InputError, match=words):
                calibrate(layer, [batch])
        else:
            assert calibrate(layer, [batch]) == 1
        for key, value in layer.state_dict().items():
            assert torch.equal(value, before[key]), key
    with pytest.raises(InputError, match='one by one, got int'):
        calibrate(layer, 5)
    # An empty batch beside another one does not count.
    layers = [RFAConv(3, 4, 3), RFAConv(3, 4, 3)]
    layers[1].load_state_dict(layers[0].state_dict())
    calibrate(layers[0], [images[:0], images])
    calibrate(layers[1], [images])
    assert torch.equal(layers[0].norm.weight, layers[1].norm.weight)


def test_reachable_from_the_top():
    assert mmrfa.convert_convs is convert_convs
    with pytest.raises(AttributeError, match="no attribute 'convert'"):
        mmrfa.convert  # noqa: B018


class Merging(nn.Linear):
    """Its weight is another one in eval mode, as of a merged LoRA."""

    merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data.add_(-1 if mode else 1)
            self.merged = not mode
        return self


def test_eval_of_the_network_is_not_called():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()
    )
    net.append(Merging(16, 2))
    x = torch.rand(1, 3, 6, 6)
    plan_convs(net, 'RFAConv', sample=x)
    assert not net[4].merged
    net = convert_convs(net.eval(), 'RFAConv', sample=x).train()
    mmrfa.inspect(net, x)
    calibrate(net, [x])
    assert net[4].training and not net[4].merged


@pytest.mark.parametrize('inplace', [False, True])
def test_a_forward_of_another_network(inplace):
    """A copy runs what the original's forward holds on to."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    net.forward = torch.no_grad()(net.forward)
    x = torch.rand(1, 3, 6, 6)
    found = dict(start='fresh', sample=x, inplace=inplace)
    if inplace:
        assert not convert_convs(net, 'RFAConv', **found)(x).equal(net[0](x))
        return
    with pytest.raises(InputError, match='none of 1 operators that ran'):
        convert_convs(net, 'RFAConv', **found)


class Stubborn(nn.Module):
    """Its convolution cannot be replaced."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def __setattr__(self, name, value):
        if name == 'conv' and name in self._modules:
            raise TypeError('no')
        super().__setattr__(name, value)

    def forward(self, x):
        return self.conv(x)


def test_a_parent_that_refuses_leaves_the_network_as_it_was():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), Stubborn()
    ).eval()
    before = list(net.modules())
    with pytest.raises(TypeError, match='no'):
        convert_convs(net, 'RFAConv', start='fresh', inplace=True)
    assert list(net.modules()) == before


def test_a_weight_that_is_no_parameter_stays():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    weight = net[2].weight.detach()
    del net[2].weight
    net[2].weight = weight
    plan = plan_convs(net, 'RFAConv')
    assert plan.skipped[0].why == 'its weight is no parameter of its own'


def test_half_precision_is_no_excuse():
    """What changes the output by half of it is refused in any precision."""

    class Twice(nn.Sequential):
        def forward(self, x):
            x = torch.relu(self[0](x))
            if x.sum() < 0:  # no graph
                return x
            return self[1](x) + F.conv2d(x, self[1].weight, self[1].bias)

    torch.manual_seed(0)
    net = Twice(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).bfloat16().eval()
    x = torch.rand(1, 3, 8, 8).bfloat16()
    with pytest.raises(InputError, match='expected the outputs before within'):
        convert_convs(net, 'RFAConv', sample=x)
