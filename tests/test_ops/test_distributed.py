"""Operators in two processes on one machine, over gloo."""

import datetime
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import distributed, nn
from torch.utils.checkpoint import checkpoint

from mmrfa.errors import InputError
from mmrfa.layers import (
    AWConv,
    CAConv,
    CAMConv,
    CBAMConv,
    GlooSyncBN,
    RFAConv,
    RFCAConv,
    RFCBAMConv,
)
from mmrfa.ops import use_backend

WORLD = 2
# Images that each process has; with synchronised norms one may have none.
SHARES = {'even': (2, 2), 'uneven': (3, 1), 'empty': (4, 0)}
FORMS = 'compiled', 'fused', 'reference'


class Case(NamedTuple):
    """What two processes train."""

    backend: str
    norm: str = 'GlooSyncBN'
    share: str = 'even'
    steps: int = 2
    change: str = ''

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.backend == 'compiled' else torch.float64

    @property
    def name(self) -> str:
        return '-'.join(map(str, self))


SYNCHRONISED = [
    *(Case(form, share=share) for form in FORMS for share in SHARES),
    *(Case(form, change='checkpointed') for form in FORMS),
    *(Case(form, change='frozen') for form in FORMS),
    Case('fused', steps=10),
    Case('fused', norm='SyncBN'),
]
ALONE = [
    *(Case(form, norm='BN') for form in FORMS),
    Case('fused', change='groups of one'),
]


def network(norm: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    args = dict(kernel_size=3, padding=1, norm_cfg=dict(type=norm))
    between = GlooSyncBN if norm == 'GlooSyncBN' else nn.BatchNorm2d
    net = nn.Sequential(
        RFAConv(3, 8, **args),
        RFAConv(8, 8, **args, mode='unfold'),
        between(8),
        RFCBAMConv(8, 8, **args, stride=2),
        nn.ReLU(),
        CAMConv(8, 32, **args),
        CBAMConv(32, 32, **args),
        AWConv(32, 8, **args),
        CAConv(8, 8, **args),
        RFCAConv(8, 4, **args),
    )
    if norm == 'SyncBN':  # torch's own refuses CPUs outside the operators
        net[2] = GlooSyncBN(8)
    return net.to(dtype)


def changed(net: nn.Module, change: str) -> nn.Module:
    if change == 'frozen':
        net[0].requires_grad_(False)
        net[1].norm.eval()
    if change == 'groups of one':
        groups = [distributed.new_group([rank]) for rank in range(WORLD)]
        for module in net.modules():
            if isinstance(module, GlooSyncBN):
                module.process_group = groups[distributed.get_rank()]
    return net


def batch(rank: int, share: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(sum(SHARES[share]), 3, 9, 8, generator=generator)
    return images.split(SHARES[share])[rank]


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.inner:
            x = checkpoint(layer, x, use_reentrant=False)
        return x


def train(case: Case, net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Train on the sum of squares; the last output."""
    rate = 0.001 if case.steps == 2 else 0.0001
    optimizer = torch.optim.SGD(net.parameters(), rate)
    # AWConv has no compiled form: named, it would be refused.
    with use_backend(None if case.backend == 'compiled' else case.backend):
        for _ in range(case.steps):  # the second finds parameters left out
            optimizer.zero_grad()
            out = net(x)
            out.square().sum().backward()
            if case.norm == 'SyncBN':  # which DDP takes on GPUs alone
                for parameter in net.parameters():
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= WORLD
            optimizer.step()
    return out.detach()


def run_case(case: Case) -> dict:
    rank = distributed.get_rank()
    inner = changed(network(case.norm, case.dtype), case.change)
    net = Checkpointed(inner) if case.change == 'checkpointed' else inner
    if case.norm != 'SyncBN':
        wrap = nn.parallel.DistributedDataParallel
        net = wrap(net, broadcast_buffers=False)
    out = train(case, net, batch(rank, case.share).to(case.dtype))
    grads = {f'grad {k}': p.grad for k, p in inner.named_parameters()}
    return grads | dict(inner.named_buffers()) | {'out': out}


def refusals() -> dict[str, str]:
    """What is said of groups that cannot work."""
    rank, said = distributed.get_rank(), {}
    x = torch.randn(2, 3, 4, 4)
    timeout = datetime.timedelta(seconds=3)
    everyone = list(range(WORLD))
    groups = {
        'left out': [distributed.new_group([1 - rank])],
        'different': [
            distributed.new_group(everyone, timeout=timeout) for _ in everyone
        ],
    }
    for name, made in groups.items():
        group = made[min(rank, len(made) - 1)]
        try:
            GlooSyncBN(3, process_group=group)(x)
        except (InputError, RuntimeError) as error:
            said[name] = f'{type(error).__name__}: {error}'
    return said


def work(rank: int, folder: str, kernels: bool) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', f'file://{folder}/store', rank=rank, world_size=WORLD
    )
    found = {
        case.name: run_case(case)
        for case in SYNCHRONISED + ALONE
        if kernels or case.backend != 'compiled'
    }
    torch.save(found | {'said': refusals()}, f'{folder}/{rank}.pt')


@pytest.fixture(scope='module')
def found(tmp_path_factory) -> list[dict]:
    """What each of two processes found, in all cases."""
    from mmrfa.ops.primitives import cpu

    folder = tmp_path_factory.mktemp('processes')
    kernels = str(int(cpu.unavailable() is None))
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder), kernels],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {'OMP_NUM_THREADS': '1'},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(WORLD)
    ]
    for process in processes:
        _, report = process.communicate(timeout=300)
        assert process.returncode == 0, report
    return [
        torch.load(folder / f'{rank}.pt', weights_only=True)
        for rank in range(WORLD)
    ]


def needs(case: Case, request) -> None:
    if case.backend == 'compiled':
        request.getfixturevalue('kernels')


def close(case: Case) -> dict:
    if case.backend == 'compiled':
        return dict(rtol=2e-3, atol=1e-4)
    limit = 1e-10 if case.steps == 2 else 1e-9
    return dict(rtol=limit, atol=limit)


def compare(case: Case, got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert got[name] is None, name
            continue
        torch.testing.assert_close(
            got[name].to(value.dtype),
            value,
            **close(case),
            msg=lambda m, n=name: f'{n}: {m}',
        )


@pytest.mark.slow
@pytest.mark.parametrize('case', SYNCHRONISED, ids=lambda case: case.name)
def test_synchronised_norms_see_one_batch(case, found, request):
    """Two processes compute what one computes on all images."""
    needs(case, request)
    whole = [batch(rank, case.share) for rank in range(WORLD)]
    exact = changed(network('BN', torch.float64), case.change)
    # DDP takes the mean of the gradients of both.
    for parameter in exact.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda grad: grad / WORLD)
    plain = Case('reference', 'BN', steps=case.steps)
    outs = train(plain, exact, torch.cat(whole).double())
    expected = {f'grad {k}': p.grad for k, p in exact.named_parameters()}
    expected |= dict(exact.named_buffers())
    if case.change == 'checkpointed':  # each forward moves what is running
        names = [name for name in expected if not name.startswith('grad')]
        for name in names:
            del expected[name]
    for part, out in zip(found, outs.split(SHARES[case.share])):
        got = part[case.name]
        if case.change == 'checkpointed':
            got = {k: got[k] for k in (*expected, 'out')}
        compare(case, got, expected | {'out': out})


@pytest.mark.slow
@pytest.mark.parametrize('case', ALONE, ids=lambda case: case.name)
def test_gradients_are_the_mean_over_processes(case, found, request):
    """Of norms that see the batch of their process alone."""
    needs(case, request)
    twins = [network('BN', case.dtype) for _ in range(WORLD)]
    with use_backend('reference'):
        for _ in range(case.steps):
            outs = []
            for rank, net in enumerate(twins):
                net.zero_grad()
                outs.append(net(batch(rank, case.share).to(case.dtype)))
                outs[-1].square().sum().backward()
            for pair in zip(*(net.parameters() for net in twins)):
                mean = sum(p.grad for p in pair) / WORLD
                for parameter in pair:
                    parameter.grad = mean
                    parameter.data -= 0.001 * mean
    for part, net, out in zip(found, twins, outs):
        expected = {f'grad {k}': p.grad for k, p in net.named_parameters()}
        expected |= dict(net.named_buffers()) | {'out': out.detach()}
        compare(case, part[case.name], expected)


@pytest.mark.slow
def test_groups_that_cannot_work_are_refused(found):
    for part in found:
        assert 'expected a process_group with this' in part['said']['left out']
        assert 'expected all processes of' in part['said']['different']


def test_synchronised_norms_of_one_process_are_batch_norms():
    """As nn.SyncBatchNorm: without a group, with one process, in eval."""
    x = batch(0, 'even').double()
    nets = {}
    for norm in ('BN', 'SyncBN', 'GlooSyncBN'):
        for form in ('reference', 'fused'):
            net = nets[norm, form] = network(norm, torch.float64)
            train(Case(form, 'BN'), net, x)
    expected = nets['BN', 'reference'].state_dict()
    for (_, form), net in nets.items():
        for name, value in net.state_dict().items():
            torch.testing.assert_close(value, expected[name])
        with use_backend(form):
            out = net.eval()(x)
        torch.testing.assert_close(out, nets['BN', 'reference'].eval()(x))


if __name__ == '__main__':
    work(int(sys.argv[1]), sys.argv[2], sys.argv[3] == '1')
