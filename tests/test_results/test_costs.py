"""Parameters and operations: counted by hand, and as published."""

import re

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmrfa.layers import OPERATORS, RFAConv
from mmrfa.ops import BACKENDS, use_backend
from mmrfa.results.costs import count, count_config, network
from mmrfa.results.published import paper_table
from mmrfa.results.tables import compare_costs
from mmrfa.results.zoo import variant

from .crafted_runs import CONFIGS, REPO

TABLE = paper_table('imagenet')


@pytest.mark.parametrize(
    'row', TABLE.rows, ids=lambda row: f'{row["model"]}-{row["conv"]}'
)
def test_counts_are_the_published_ones(row):
    name = variant(TABLE.configs[row['model']], row['conv'])
    params, flops = count_config(CONFIGS[name], 224)
    assert round(params / 1e6, 3) == row['params']
    # Required is 1 %; the convention gives the very digits.
    assert flops / 1e9 == pytest.approx(row['gflops'], abs=6e-4)


def test_table_beside_the_published_numbers():
    """Rows as counted above; the operator's share in brackets."""
    lines = compare_costs(TABLE, CONFIGS).splitlines()
    assert len(lines) == 2 + 12
    assert lines[2].endswith('| 11.690 | 11.690 | 1.824 | 1.824 |')
    row = '11.850 (+0.161) | 11.850 (+0.160) | 1.908 (+0.084) | 1.908 (+0.084)'
    assert lines[6] == (
        f'| ResNet-18 | RFAConv | `resnet18-rfa_4xb32-100e_in1k` | {row} |'
    )


def rows_of_yolo(name: str) -> dict[str, list[str]]:
    """The rows of the zoo's tables of costs by config; their numbers."""
    found = {}
    for path in sorted(REPO.glob('configs/yolo*/README.md')):
        text = path.read_text()
        text = text.partition(f'<!-- table: costs of {name} -->')[2]
        for row in text.partition('<!-- end of table -->')[0].splitlines():
            if '`' in row:
                config, *cells = re.search(r'`.*', row)[0].split(' | ')
                cells = [re.match(r'[\d.]+', cell)[0] for cell in cells]
                found[config.strip('`')] = cells
    return found


@pytest.mark.parametrize(('name', 'count'), [('voc0712', 22), ('coco', 13)])
def test_tables_of_yolo_have_the_published_digits(name, count):
    """Operations of every row; parameters, which the paper cuts at times."""
    rows = rows_of_yolo(name)
    assert len(rows) == count
    for config, (params, cut, flops, published) in rows.items():
        assert f'{float(flops):.1f}' == published, config
        if name == 'coco' and not config.startswith('yolov7'):
            assert params[:3] == cut, config
        else:
            assert f'{float(params):.1f}' == cut, config


@pytest.mark.usefixtures('mmyolo')
@pytest.mark.parametrize(
    ('name', 'config'),
    [
        ('coco', 'yolov8_n-rfca_8xb16-500e_coco'),
        ('voc0712', 'yolov7_tiny-rfa_8xb16-300e_voc0712'),
    ],
)
def test_tables_of_yolo_are_what_is_counted(name, config):
    how = dict(paper_table(name).counted)
    twice = how.pop('per_multiply_add')
    params, flops = count_config(CONFIGS[config], **how)
    counted = [f'{params / 1e6:.3f}', f'{flops * twice / 1e9:.3f}']
    assert rows_of_yolo(name)[config][::2] == counted


def by_mmengine(layer: nn.Module, x: torch.Tensor) -> float:
    """MMEngine's number, as any of its users would get it."""
    analyzer = FlopAnalyzer(layer, (x,))
    analyzer.unsupported_ops_warnings(False)
    analyzer.uncalled_modules_warnings(False)
    return analyzer.total()


@pytest.mark.parametrize('form', BACKENDS)
@pytest.mark.parametrize('operator', OPERATORS, ids=lambda op: op.__name__)
def test_every_form_costs_the_same(operator, form):
    """Ours, MMEngine's and torch's, which takes 2 for a multiply-add.

    Norms, which torch does not count, are what remains between them.
    """
    layer = operator(16, 24, 3, 1, 1).eval()
    x = torch.randn(1, 16, 14, 14)
    _, flops = count(layer, (16, 14, 14))
    with torch.no_grad(), FlopCounterMode(display=False) as literal:
        with use_backend('reference'):
            layer(x)
    norms = flops - literal.get_total_flops() / 2
    assert 0 <= norms < 0.07 * flops
    try:
        with use_backend(form), torch.no_grad():
            with FlopCounterMode(display=False) as counter:
                layer(x)
            again = by_mmengine(layer, x)
    except RuntimeError as error:
        if 'cannot run' not in str(error):
            raise
        pytest.skip(str(error))
    assert counter.get_total_flops() == literal.get_total_flops()
    assert again == flops


def test_rfaconv_by_hand():
    """C = 16, O = 24, 14 x 14: the grouped 3x3 makes 9C features of 9
    multiply-adds each, their norm takes 2, the last convolution 9C * O."""
    _, flops = count(RFAConv(16, 24, 3, 1, 1), (16, 14, 14))
    assert flops == 14 * 14 * (9 * 16 * (9 + 2) + 9 * 16 * 24)


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


def test_counting_leaves_the_network_alone():
    net = network(CONFIGS['resnet18-rfa_4xb32-100e_in1k'])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    count(net, (3, 32, 32), as_published=True)
    after = net.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
