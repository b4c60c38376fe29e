"""Parameters and GFLOPs of every network the paper's ImageNet table has."""

import pytest
import torch
from torch import nn

from mmrfa.utils.flops import count, imagenet_network
from mmrfa.utils.paper_tables import load_paper_tables, paper_table

ROWS = paper_table('imagenet').rows


def test_all_published_rows_are_there():
    assert len(ROWS) == 12
    assert len({(row['model'], row['conv']) for row in ROWS}) == 12


@pytest.mark.parametrize(
    'row', ROWS, ids=lambda row: f'{row["model"]}-{row["conv"]}'
)
def test_counts_are_the_published_ones(row):
    network = imagenet_network(row['model'], row['conv'])
    params, flops = count(network, (3, 224, 224), as_published=True)
    assert round(params / 1e6, 3) == row['params']
    # Required is 1 %; the convention gives the very digits.
    assert flops / 1e9 == pytest.approx(row['gflops'], abs=6e-4)


def test_convention_by_hand():
    """One convolution, one batch norm, one pooling, counted with a pencil."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.norm(self.conv(x))
            # Neither the mean over channels nor the sum and product count.
            return (y + y.mean(1, True) * 2).mean((2, 3))

    params, flops = count(Net(), (3, 8, 8), as_published=True)
    assert params == 4 * 3 * 9 + 4 + 8
    conv, norm, pool = 64 * 4 * 27, 4 * 4 * 64, 4 * 64 + 4
    assert flops == conv + norm + pool


def test_tables_are_whole():
    """Rows differ and no value lies outside what its column can hold."""
    for table in load_paper_tables().values():
        assert table.columns[:2] == ['model', 'conv']
        assert table.source['paper'].startswith('https://')
        keys = [tuple(row.values())[:3] for row in table.rows]
        assert len(set(keys)) == len(keys)
        for row in table.rows:
            for key, value in row.items():
                if key in ('model', 'conv', 'schedule') or value is None:
                    continue
                assert 0 < value < 100, (table.name, row)
                assert key in table.headings
                assert key in table.decimals


def test_counting_leaves_the_network_alone():
    net = imagenet_network('ResNet-18', 'RFAConv')
    before = {key: value.clone() for key, value in net.state_dict().items()}
    count(net, (3, 32, 32), as_published=True)
    after = net.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
