"""Operators in two processes on one machine, over gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mmrfa.layers import (
    AWConv,
    CAConv,
    CAMConv,
    CBAMConv,
    RFAConv,
    RFCAConv,
    RFCBAMConv,
)
from mmrfa.ops import use_backend

WORLD = 2
# Images that each process has; with synchronised norms one may have none.
SHARES = {'even': (2, 2), 'uneven': (3, 1), 'empty': (4, 0)}


def network(norm: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    args = dict(kernel_size=3, padding=1, norm_cfg=dict(type=norm))
    net = nn.Sequential(
        RFAConv(3, 8, **args),
        RFAConv(8, 8, **args, mode='unfold'),
        RFCBAMConv(8, 8, **args, stride=2),
        nn.ReLU(),
        CAMConv(8, 32, **args),
        CBAMConv(32, 32, **args),
        AWConv(32, 8, **args),
        CAConv(8, 8, **args),
        RFCAConv(8, 4, **args),
    )
    return net.to(dtype)


def batch(rank: int, share: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(sum(SHARES[share]), 3, 9, 8, generator=generator)
    return images.split(SHARES[share])[rank]


def steps(
    net: nn.Module, x: torch.Tensor, backend: str, average: bool = False
) -> dict:
    """What two steps of the sum of squares leave, and the last output."""
    optimizer = torch.optim.SGD(net.parameters(), 0.001)
    # AWConv has no compiled form: named, it would be refused.
    with use_backend(None if backend == 'compiled' else backend):
        for _ in range(2):  # the second step finds parameters left out
            optimizer.zero_grad()
            out = net(x)
            out.square().sum().backward()
            for parameter in net.parameters() if average else ():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= WORLD
            optimizer.step()
    inner = getattr(net, 'module', net)
    found = {f'grad {k}': p.grad for k, p in inner.named_parameters()}
    return found | dict(inner.named_buffers()) | {'out': out.detach()}


def work(rank: int, folder: str, backend: str, norm: str, share: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', f'file://{folder}/store', rank=rank, world_size=WORLD
    )
    dtype = torch.float32 if backend == 'compiled' else torch.float64
    net = network(norm, dtype)
    by_hand = norm == 'SyncBN'  # which DDP takes on GPUs alone
    if not by_hand:
        wrap = nn.parallel.DistributedDataParallel
        net = wrap(net, broadcast_buffers=False)
    found = steps(net, batch(rank, share).to(dtype), backend, by_hand)
    torch.save(found, f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


def run(folder: Path, backend: str, norm: str, share: str) -> list[dict]:
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, __file__, str(rank), str(folder)),
                *(backend, norm, share),
            ],
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


def needs(backend: str, request) -> None:
    if backend == 'compiled':
        request.getfixturevalue('kernels')


@pytest.mark.slow
@pytest.mark.parametrize('share', SHARES)
@pytest.mark.parametrize('backend', ['compiled', 'fused', 'reference'])
def test_synchronised_norms_see_one_batch(backend, share, tmp_path, request):
    """Two processes compute what one computes on all images."""
    needs(backend, request)
    found = run(tmp_path, backend, 'SyncBN', share)
    whole = torch.cat([batch(rank, share) for rank in range(WORLD)])
    exact = network('BN', torch.float64)
    # DDP takes the mean of the gradients of both.
    optimizer = torch.optim.SGD(exact.parameters(), 0.001 / WORLD)
    with use_backend('reference'):
        for _ in range(2):
            optimizer.zero_grad()
            out = exact(whole.double())
            out.square().sum().backward()
            optimizer.step()
    expected = {
        f'grad {k}': p.grad / WORLD for k, p in exact.named_parameters()
    }
    expected |= dict(exact.named_buffers())
    close = dict(rtol=1e-10, atol=1e-10)
    if backend == 'compiled':
        close = dict(rtol=2e-3, atol=1e-4)
    for part, images in zip(found, out.split(SHARES[share])):
        torch.testing.assert_close(part.pop('out').double(), images, **close)
        assert part.keys() == expected.keys()
        for name, value in part.items():
            value = value.to(expected[name].dtype)
            torch.testing.assert_close(
                value, expected[name], **close, msg=lambda m, n=name: n + m
            )


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['compiled', 'fused', 'reference'])
def test_gradients_are_the_mean_over_processes(backend, tmp_path, request):
    needs(backend, request)
    found = run(tmp_path, backend, 'BN', 'even')
    dtype = found[0]['out'].dtype
    twins = [network('BN', dtype) for _ in range(WORLD)]
    for _ in range(2):
        for rank, net in enumerate(twins):
            net.zero_grad()
            with use_backend('reference'):
                net(batch(rank, 'even').to(dtype)).square().sum().backward()
        pairs = zip(*(net.parameters() for net in twins))
        for parameters in pairs:
            mean = sum(p.grad for p in parameters) / WORLD
            for parameter in parameters:
                parameter.grad = mean
                parameter.data -= 0.001 * mean
    for part in found:
        for name, parameter in twins[0].named_parameters():
            torch.testing.assert_close(
                part[f'grad {name}'],
                parameter.grad,
                rtol=2e-3,
                atol=1e-4,
                msg=lambda m, n=name: n + m,
            )


def test_synchronised_norms_of_one_process_are_batch_norms():
    """As nn.SyncBatchNorm: without a group, with one process, in eval."""
    x = batch(0, 'even').double()
    plain = steps(network('BN', torch.float64), x, 'reference')
    for backend in ('reference', 'fused'):
        got = steps(network('SyncBN', torch.float64), x, backend)
        for name, value in plain.items():
            torch.testing.assert_close(got[name], value, msg=name)


if __name__ == '__main__':
    work(int(sys.argv[1]), *sys.argv[2:])
