"""Every form under DistributedDataParallel, two processes on one machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mmrfa.layers import RFAConv, RFCAConv, RFCBAMConv
from mmrfa.ops import use_backend

WORLD = 2
# Of some, the fixture that says whether they can run here.
BACKENDS = {
    'cpu': 'kernels',
    'triton': 'triton',
    'fused': None,
    'reference': None,
}


def network(backend: str) -> nn.Module:
    torch.manual_seed(0)
    rows = 1 if backend == 'triton' else 3  # simulated, slowly
    geometry = dict(kernel_size=(rows, 3), padding=(rows // 2, 1))
    return nn.Sequential(
        RFAConv(3, 8, **geometry),
        nn.ReLU(),
        RFAConv(8, 8, **geometry, mode='unfold'),
        RFCBAMConv(8, 8, **geometry, stride=2),
        RFCAConv(8, 4, **geometry),
    )


def batch(rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(2, 3, 9, 8, generator=generator)


def work(rank: int, folder: str, backend: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', f'file://{folder}/store', rank=rank, world_size=WORLD
    )
    net = nn.parallel.DistributedDataParallel(
        network(backend), broadcast_buffers=False
    )
    with use_backend(backend):
        for _ in range(2):  # the second step finds parameters left out
            net.zero_grad()
            net(batch(rank)).square().mean().backward()
    gradients = {k: p.grad for k, p in net.module.named_parameters()}
    torch.save(gradients, f'{folder}/{rank}.pt')
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('backend', BACKENDS)
def test_gradients_are_the_mean_over_processes(backend, tmp_path, request):
    if BACKENDS[backend]:
        request.getfixturevalue(BACKENDS[backend])
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path), backend],
            stderr=subprocess.PIPE,
            text=True,
            # on a machine with a GPU too
            env=os.environ | {'TRITON_INTERPRET': '1'},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(WORLD)
    ]
    for process in processes:
        _, report = process.communicate(timeout=300)
        assert process.returncode == 0, report
    expected = {}
    for rank in range(WORLD):
        net = network(backend)
        with use_backend('reference'):
            net(batch(rank)).square().mean().backward()
        for name, parameter in net.named_parameters():
            expected[name] = expected.get(name, 0) + parameter.grad / WORLD
    for rank in range(WORLD):
        found = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-3, atol=1e-5, msg=name
            )


if __name__ == '__main__':
    work(int(sys.argv[1]), *sys.argv[2:])
