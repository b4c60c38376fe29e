"""A checkpoint fits a network exactly, or the message says where not."""

import pytest
import torch

from mmrfa.checkpoints.fit import check_fits
from mmrfa.errors import InputError
from mmrfa.layers import OPERATORS


def test_fit_is_exact() -> None:
    def net(**sizes: int) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict(
            {k: torch.nn.Conv2d(3, v, 1) for k, v in sizes.items()}
        )

    content = dict(state_dict=net(a=1, b=2).state_dict())
    check_fits(content, net(a=1, b=2), 'x.pth')
    with pytest.raises(InputError) as error:
        check_fits(content, net(a=4, c=2), 'x.pth')
    assert str(error.value) == (
        'checkpoint x.pth: expected the 4 tensors of this ModuleDict, got '
        '2 missing (first: c.weight), 2 unexpected (first: b.weight), '
        '2 of another shape (first: a.weight, (1, 3, 1, 1) instead of '
        '(4, 3, 1, 1))'
    )
    # As from DistributedDataParallel, and a batch counter too few.
    norm = torch.nn.BatchNorm2d(3)
    state = {f'module.{k}': v for k, v in norm.state_dict().items()}
    del state['module.num_batches_tracked']
    check_fits(state, torch.nn.BatchNorm2d(3), 'x.pth')


@pytest.mark.parametrize('kind', OPERATORS)
def test_older_names_fit(kind) -> None:
    """Operators had their weight and bias in a module ``conv``."""

    def net(out_channels: int = 4) -> torch.nn.Sequential:
        return torch.nn.Sequential(kind(16, out_channels, 3))

    source, target = net(), net()
    state = {
        {'0.weight': '0.conv.weight', '0.bias': '0.conv.bias'}.get(k, k): v
        for k, v in source.state_dict().items()
    }
    check_fits(dict(state_dict=state), target, 'old.pth')
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
    with pytest.raises(InputError, match=r'\d of another shape'):
        check_fits(state, net(5), 'old.pth')
