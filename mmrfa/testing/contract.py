"""What every operator owes to ``nn.Conv2d``, as tests for pytest.

Also for an operator of your own. In a test file::

    from mmrfa.testing import OperatorContract

    class TestMyConv(OperatorContract):
        operator = MyConv

pytest collects the inherited tests. They take the operator's constructor as
that of ``nn.Conv2d``, with further arguments in ``arguments``.
"""

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from mmrfa.errors import InputError
from mmrfa.layers import AttentionConv2d
from mmrfa.ops.primitives.cpu.build import old_torch

# Older ones cannot prove that 3 * w < 9 * w (seen: 2.12, RFCBAMConv).
PROVES_BOUNDS = torch.__version__ >= (2, 13)
OLD_TORCH = old_torch(torch.__version__)
new_torch = pytest.mark.skipif(OLD_TORCH is not None, reason=str(OLD_TORCH))
ATTRIBUTES = (
    'in_channels out_channels kernel_size stride padding dilation '
    'transposed output_padding groups padding_mode'
).split()


class OperatorContract:
    """Tests of one operator; subclass it and name the operator.

    Attributes:
        operator (type[AttentionConv2d]): the class under test.
        arguments (dict): of its constructor, besides those of nn.Conv2d.
        silent (set[str]): parameters that have no effect in training mode,
            for instance a bias in front of a batch norm.
        starts_as_conv (bool): whether it has a start from a convolution.
    """

    operator: type[AttentionConv2d]
    arguments: dict[str, Any] = {}
    silent: set[str] = set()
    starts_as_conv = True

    def make(self, *args, **kwargs) -> AttentionConv2d:
        """The operator, always with the same weights."""
        torch.manual_seed(0)
        return self.operator(*args, **kwargs, **self.arguments)

    def test_output_size_is_that_of_conv2d(self):
        cases = itertools.product((1, 2, 3), (1, 2, 3), (0, 1), (1, 2), (5, 6))
        for k, s, p, d, height in cases:
            args = 2, 4, k, s, p, d
            x = torch.randn(1, 2, height, 7)
            assert self.make(*args)(x).shape == nn.Conv2d(*args)(x).shape

    def test_pairs_and_attributes_are_those_of_conv2d(self):
        args = 4, 6, (3, 5), (1, 2), (0, 3), (2, 1), 2, False
        ours, plain = self.make(*args), nn.Conv2d(*args)
        x = torch.randn(2, 4, 9, 8)
        assert ours(x).shape == plain(x).shape
        for name in ATTRIBUTES:
            assert getattr(ours, name) == getattr(plain, name), name
        assert ours.weight.shape == plain.weight.shape
        assert ours.bias is None
        assert self.make(4, 6, 3).bias.shape == (6,)
        for padding in ('same', 'valid'):
            args = 4, 6, 3, 1, padding, 2
            assert self.make(*args)(x).shape == nn.Conv2d(*args)(x).shape

    def test_unbatched_and_empty_input(self):
        layer = self.make(3, 4, 3).eval()
        x = torch.randn(3, 6, 5)
        torch.testing.assert_close(layer(x), layer(x[None])[0])
        assert layer(torch.randn(0, 3, 6, 5)).shape == (0, 4, 4, 3)

    @pytest.mark.parametrize('kernel', [1, 3, 5, 7])
    @pytest.mark.parametrize(
        'dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str
    )
    def test_every_parameter_gets_a_finite_gradient(self, kernel, dtype):
        layer = self.make(64, 6, kernel, padding=kernel // 2, dtype=dtype)
        x = torch.randn(2, 64, 7, 5, dtype=dtype, requires_grad=True)
        y = layer(x)
        assert y.dtype == dtype
        y.float().pow(2).sum().backward()
        assert x.grad.isfinite().all()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            exact = dtype == torch.float64 and kernel > 1
            if exact and name not in self.silent:
                assert parameter.grad.any(), name

    def test_one_value_per_channel_in_training_mode(self):
        for kernel in (1, 3):
            layer = self.make(16, 4, kernel)
            y = layer(torch.randn(1, 16, kernel, kernel))
            assert y.shape == (1, 4, 1, 1)
            y.sum().backward()
            assert all(p.grad.isfinite().all() for p in layer.parameters())

    def test_autocast_and_half_precision_stay_close(self):
        layer = self.make(16, 8, 3, padding=1).eval()
        x = torch.randn(2, 16, 9, 8)
        exact = copy.deepcopy(layer).double()(x.double())
        scale = exact.abs().max()
        assert (layer(x) - exact).abs().max() < 1e-5 * scale
        dtypes = [torch.bfloat16, *[torch.float16] * (OLD_TORCH is None)]
        for dtype in dtypes:  # old ones have no float16 on CPUs
            with torch.autocast('cpu', dtype):
                mixed = layer(x)
            half = copy.deepcopy(layer).to(dtype)(x.to(dtype))
            for got in (mixed, half):
                assert got.dtype == dtype
                assert (got - exact).abs().max() < 0.05 * scale
        with pytest.raises(RuntimeError):  # as nn.Conv2d
            layer(x.bfloat16())

    def test_input_by_its_name(self):
        layer = self.make(4, 6, 3)
        x = torch.randn(2, 4, 9, 8)
        assert torch.equal(layer.eval()(input=x), layer(x))

    def test_memory_layout(self):
        layer = self.make(4, 6, 3, 2, 1).double()
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
        for single in (layer, copy.deepcopy(layer).float()):
            last = layouts['channels_last'].to(single.weight.dtype)
            y = single(last)
            assert y.is_contiguous(memory_format=torch.channels_last)

    def test_state_dict_round_trip_copy_and_pickle(self):
        layer, other = self.make(4, 6, 3), self.make(4, 6, 3)
        layer(torch.randn(2, 4, 6, 6))  # moves the running statistics
        other.load_state_dict(layer.state_dict(), strict=True)
        twins = other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
        x = torch.randn(2, 4, 6, 6)
        for twin in twins:
            assert torch.equal(twin.eval()(x), layer.eval()(x))

    def test_weight_and_bias_can_be_set(self):
        """Assigned, removed, pruned and normalised, as in nn.Conv2d."""
        layer = self.make(4, 6, 3)
        x = torch.randn(1, 4, 5, 5)
        layer.weight = nn.Parameter(torch.zeros(6, 4, 3, 3))
        layer.bias = nn.Parameter(torch.arange(6.0))
        expected = torch.arange(6.0)[:, None, None].expand(6, 3, 3)
        torch.testing.assert_close(layer(x)[0], expected)
        layer.bias = None
        assert not layer(x).any()
        assert 'bias' not in layer.state_dict()
        pruned = self.make(4, 6, 3)
        torch.nn.utils.prune.l1_unstructured(pruned, 'weight', 0.5)
        assert (pruned.weight == 0).sum() == pruned.weight.numel() // 2
        pruned(x)
        normed = self.make(4, 6, 3).eval()
        before = normed(x)
        torch.nn.utils.parametrizations.weight_norm(normed)
        torch.testing.assert_close(normed(x), before)

    def test_initialisation(self):
        """He's normal, fan out; again by either name; none with skip_init."""
        deviation = (2 / (96 * 9)) ** 0.5
        layer = self.make(64, 96, 3)
        for draw in (None, 'reset_parameters', 'init_weights'):
            if draw:
                for parameter in layer.parameters():
                    nn.init.constant_(parameter, 7)
                getattr(layer, draw)()
            spread = layer.weight.std().item()
            assert spread == pytest.approx(deviation, rel=0.05)
            assert not layer.bias.any()
            for name, parameter in layer.named_parameters():
                assert parameter.abs().max() <= 1, name
        empty = nn.utils.skip_init(
            self.operator, 4, 6, 3, device='cpu', **self.arguments
        )
        empty.load_state_dict(self.make(4, 6, 3).state_dict())

    def test_starts_as_a_convolution(self):
        if not self.starts_as_conv:
            with pytest.raises(InputError, match='no start from a plain'):
                self.make(4, 6, 3).start_as_conv(torch.zeros(6, 4, 3, 3))
            return
        args = 4, 6, 3, 2, 2, 2, 2
        plain = nn.Conv2d(*args).double()
        x = torch.randn(2, 4, 9, 8).double()
        for floor in (0.0, 0.3):  # as behind a ReLU, and as behind a SiLU
            layer = self.make(*args).double().eval()
            layer.start_as_conv(plain.weight.data, plain.bias.data, floor)
            seen = x.clamp(min=-floor)
            torch.testing.assert_close(layer(seen), plain(seen))
        with pytest.raises(InputError, match=r'shape \(6, 2, 3, 3\), got'):
            layer.start_as_conv(torch.zeros(6, 4, 3, 3))
        bare = self.make(4, 6, 3, bias=False)
        with pytest.raises(InputError, match='as bias=False, got a bias'):
            bare.start_as_conv(torch.zeros(6, 4, 3, 3), torch.ones(6))

    def test_neutral_start(self):
        """The same attention everywhere; all else is drawn as published."""
        with pytest.raises(InputError, match='start must be one of'):
            self.make(4, 6, 3, start='none')
        if not self.starts_as_conv:
            with pytest.raises(InputError, match='nor a neutral one'):
                self.make(4, 6, 3, start='neutral')
            return
        torch.manual_seed(0)
        published = self.make(64, 96, 3)
        torch.manual_seed(0)
        layer = self.make(64, 96, 3, start='neutral')
        torch.manual_seed(0)
        again = copy.deepcopy(published)
        again.start = 'neutral'
        again.reset_parameters()
        assert 'neutral' in repr(layer)
        x = torch.randn(2, 64, 6, 6)
        tells = self.operator._attention is not AttentionConv2d._attention
        for each in (layer.eval(), again.eval()) if tells else ():
            for name, weight in each.attention(x).items():
                assert weight.unique().numel() == 1, name
        twins = published.state_dict()
        changed = [
            name
            for name, value in layer.state_dict().items()
            if not torch.equal(value, twins[name])
        ]
        assert not any(layer.state_dict()[name].any() for name in changed)
        assert torch.equal(layer.weight, published.weight)

    def test_learns(self):
        """A few steps on a fixed target bring the loss well down."""
        layer = self.make(4, 4, 3, padding=1)
        x, target = torch.randn(2, 4, 4, 8, 8)
        optimizer = torch.optim.Adam(layer.parameters(), 0.02)
        losses = []
        for _ in range(60):
            loss = (layer(x) - target).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.9 * losses[0]

    def test_transforms(self):
        """torch.func as on nn.Conv2d: the derivatives of backward."""
        layer = self.make(4, 3, 3, padding=1).eval()
        x = torch.randn(2, 4, 5, 4)
        direction = torch.randn_like(x)

        def total(x):
            return layer(x).pow(2).sum()

        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(total(leaf), leaf)
        close = dict(rtol=1e-3, atol=1e-5)
        got = torch.func.grad(total)(x)
        torch.testing.assert_close(got, expected, **close)
        got = torch.func.jacrev(total)(x)
        torch.testing.assert_close(got, expected, **close)
        _, slope = torch.func.jvp(total, (x,), (direction,))
        torch.testing.assert_close(
            slope, (expected * direction).sum(), **close
        )
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, direction)
            dual = torch.autograd.forward_ad.unpack_dual(total(dual))
        torch.testing.assert_close(dual.tangent, slope, **close)
        each = torch.func.vmap(layer)(x)
        torch.testing.assert_close(each, layer(x), **close)

    def test_traces_by_fx_and_jit(self):
        net = nn.Sequential(self.make(4, 6, 3), nn.ReLU()).eval()
        x = torch.randn(2, 4, 6, 6)
        expected = net(x)
        traced = torch.fx.symbolic_trace(net)
        torch.testing.assert_close(traced(x), expected)
        torch.testing.assert_close(traced(x[0]), expected[0])
        recorded = torch.jit.trace(net, x)
        torch.testing.assert_close(recorded(x), expected)
        assert 'mmrfa::' not in str(recorded.inlined_graph)

    @new_torch
    @pytest.mark.parametrize('training', [True, False])
    def test_compiles_whole(self, training):
        """One graph, neighbours included, with equal results."""
        net = nn.Sequential(
            nn.Conv2d(3, 4, 1), self.make(4, 6, 3, padding=1), nn.ReLU()
        ).train(training)
        twin = copy.deepcopy(net)
        compiled = torch.compile(twin, fullgraph=True, backend='aot_eager')
        x = torch.randn(2, 3, 7, 6)
        for module in (net, compiled):
            module(x).pow(2).sum().backward()
        torch.testing.assert_close(compiled(x), net(x))
        for name, parameter in net.named_parameters():
            got = twin.get_parameter(name).grad
            torch.testing.assert_close(
                got, parameter.grad, rtol=1e-4, atol=1e-5, msg=name
            )
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(twin.get_buffer(name), buffer)

    @new_torch
    @pytest.mark.parametrize('strict', [True, False])
    def test_exports_for_any_size(self, strict):
        layer = self.make(4, 6, 3, padding=1).eval()
        names = {0: 'n', 2: 'h', 3: 'w'}
        sizes = {
            axis: torch.export.Dim(name, min=2, max=99)
            for axis, name in names.items()
        }
        if not PROVES_BOUNDS:
            sizes = dict.fromkeys(names, torch.export.Dim.AUTO)
        program = torch.export.export(
            layer,
            (torch.randn(3, 4, 8, 7),),
            dynamic_shapes=(sizes,),
            strict=strict,
        )
        assert 'mmrfa' not in str(program.graph)
        for shape in ((2, 4, 12, 5), (5, 4, 3, 11)):
            x = torch.randn(shape)
            got = program.module()(x)
            torch.testing.assert_close(got, layer(x), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ('arguments', 'message'),
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
            (dict(groups=3), 'in_channels must be divisible .*=3, got 4'),
            (dict(groups=4), 'out_channels must be divisible .*=4, got 6'),
            (dict(padding='same', stride=2), "padding='same' needs stride 1"),
            (dict(padding='other'), "padding must be .* got 'other'"),
            (dict(padding_mode='reflect'), "padding_mode must be 'zeros'"),
        ],
        ids=str,
    )
    def test_bad_arguments(self, arguments, message):
        given = dict(in_channels=4, out_channels=6, kernel_size=3) | arguments
        with pytest.raises(InputError, match=message) as error:
            self.make(**given)
        assert '\n' not in str(error.value)

    def test_bad_input(self):
        layer = self.make(4, 6, 3, dilation=2)
        shapes = {
            (1, 5, 9, 9): r'\(N, 4, H, W\), got \(1, 5, 9, 9\)',
            (1, 4, 4, 9): 'at least 5x5 pixels.*got 4x9',
            (9, 9): r'got \(9, 9\)',
        }
        for shape, message in shapes.items():
            with pytest.raises(InputError, match=message):
                layer(torch.randn(shape))
