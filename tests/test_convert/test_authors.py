"""Checkpoints of the RFAConv authors, converted and compared."""

import sys
from pathlib import Path

import pytest
import torch

from mmrfa.convert.authors import convert_authors
from mmrfa.errors import InputError
from mmrfa.models import RFAResNet

sys.path.insert(0, str(Path(__file__).parent))
import authors_networks as authors

CASES = [(name, op) for name, op in authors.OPERATORS.items()]
CASES.append(('RFCBAMConv', authors.LogRFCBAM))


@pytest.fixture
def tool():
    """Run the command line tool in this process."""
    from importlib.util import module_from_spec, spec_from_file_location

    from mmrfa.utils.cli import run_tool

    root = Path(__file__).parents[2]
    path = root / 'tools/model_converters/rfaconv_to_mmrfa.py'
    spec = spec_from_file_location(path.stem, path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *args: run_tool(lambda: module.main(list(map(str, args))))


def far(ours, theirs):
    return max(
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize(
    ('name', 'operator', 'depth'),
    [(*case, 18) for case in CASES] + [('RFAConv', authors.RFA, 34)],
)
def test_features_are_the_originals(
    name, operator, depth, tool, tmp_path, capsys
):
    net = authors.random_network(operator, depth)
    state = net.state_dict()
    prefix = 'module.' if name in ('RFAConv', 'CAConv') else ''
    source, target = tmp_path / 'a.pth', tmp_path / 'folder/b.pth'
    torch.save(
        {
            'epoch': 3,
            'model_state_dict': {
                f'{prefix}{key}': value for key, value in state.items()
            },
        },
        source,
    )
    assert tool(source, target) == 0
    printed = capsys.readouterr().out
    assert f'ResNet-{depth} with {name}' in printed
    assert all(f'  {key}' in printed for key in state)
    assert '  fc.weight: ' in printed

    settings = dict(depth=depth, attention_conv=dict(type=name))
    strict = RFAResNet(**settings)
    strict.load_state_dict(
        torch.load(target, weights_only=True)['state_dict'], strict=True
    )
    init = dict(type='Pretrained', checkpoint=str(target))
    ours = RFAResNet(**settings, init_cfg=init)
    ours.init_weights()
    own = ours.state_dict()
    assert all(
        torch.equal(own[key], value)
        for key, value in strict.state_dict().items()
    )
    x = torch.randn(2, 3, 61, 75)
    with torch.no_grad():
        wanted, got = net.features(x), ours.eval()(x)
        assert far(got, wanted) < 1e-4
        # The attention of the last block matters in this comparison.
        block = ours.layer4[1].conv1
        attention = {
            'RFAConv': 'attn',
            'RFCBAMConv': 'expand',
            'RFCAConv': 'gate.expand_h',
            'CAMConv': 'gate.expand',
            'CBAMConv': 'gate.0.expand',
            'CAConv': 'gate.expand_w',
        }[name]
        block.get_submodule(attention).weight.zero_()
        assert far(ours(x)[-1:], wanted[-1:]) > 1e-3


def state_of(operator, depth=18):
    return dict(authors.random_network(operator, depth).state_dict())


def test_counters_and_foreign_names_are_reported():
    state = state_of(authors.CAM)
    state['layer1.0.conv1.total_ops'] = torch.zeros(1)
    state['layer1.0.conv1.mlp.0.total_params'] = torch.zeros(1)
    state['extra.weight'] = torch.zeros(1)
    del state['layer1.0.bn1.num_batches_tracked']
    converted, network, report = convert_authors(state, 'x')
    assert network == dict(depth=18, attention_conv=dict(type='CAMConv'))
    assert report.converted.keys() | report.dropped.keys() == state.keys()
    assert not report.converted.keys() & report.dropped.keys()
    assert 'counter' in report.dropped['layer1.0.conv1.total_ops']
    assert 'no such name' in report.dropped['extra.weight']
    assert list(report.missing) == ['layer1.0.bn1.num_batches_tracked']
    RFAResNet(**network).load_state_dict(converted, strict=True)


def broken(kind):
    state = state_of(authors.RFA)
    if kind == 'depth':
        return {k: v for k, v in state.items() if 'layer2.1.' not in k}
    if kind == 'missing':
        del state['layer3.0.conv1.get_weight.1.weight']
    elif kind == 'plain':
        state = {k: v for k, v in state.items() if '.conv1.' not in k}
        for stage in range(1, 5):
            for block in range(2):
                state[f'layer{stage}.{block}.conv1.weight'] = torch.zeros(1)
    elif kind == 'mixed':
        other = state_of(authors.CA)
        state = {k: v for k, v in state.items() if 'layer2.0.conv1' not in k}
        state |= {k: v for k, v in other.items() if 'layer2.0.conv1' in k}
    elif kind == 'shape':
        state['layer4.0.conv1.conv.0.weight'] = torch.zeros(512, 256, 5, 5)
    elif kind == 'outer':
        del state['layer4.1.bn2.weight']
    elif kind == 'foreign':
        state = {'encoder.weight': torch.zeros(2, 2)}
    return state


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('depth', '(2, 1, 2, 2)'),
        ('missing', 'layer3.0.conv1'),
        ('plain', 'resnet_to_rfa.py'),
        ('mixed', 'CAConv, RFAConv'),
        ('shape', 'layer4.0.conv1.conv.0.weight'),
        ('outer', 'layer4.1.bn2.weight'),
        ('foreign', '(0, 0, 0, 0)'),
    ],
)
def test_misfits_are_named(kind, words):
    with pytest.raises(InputError) as error:
        convert_authors(broken(kind), 'file.pth')
    assert words in str(error.value)
    assert 'file.pth' in str(error.value)
    assert '\n' not in str(error.value)


class Hostile:
    def __reduce__(self):
        return print, ('ran',)


def test_bad_files_leave_the_target_alone(tool, tmp_path, capsys):
    """Truncated, hostile, of another kind, absent, or the target itself."""
    good = tmp_path / 'good.pth'
    torch.save(dict(model_state_dict=state_of(authors.CAM)), good)
    (tmp_path / 'cut.pth').write_bytes(good.read_bytes()[:5000])
    torch.save({'model_state_dict': Hostile()}, tmp_path / 'hostile.pth')
    torch.save(dict(state_dict=broken('missing')), tmp_path / 'lacks.pth')
    target = tmp_path / 'target.pth'
    target.write_text('kept')
    cases = [(tmp_path / f'{n}.pth', target) for n in ('cut', 'hostile')]
    cases += [(tmp_path / f'{n}.pth', target) for n in ('lacks', 'absent')]
    cases += [(good, good), (good, tmp_path), (good, target / 'below')]
    before = good.read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir())
    for source, to in cases:
        assert tool(source, to) != 0
        out, err = capsys.readouterr()
        assert 'ran' not in out
        assert err.startswith('error: ')
        assert err.count('\n') == 1, err
        assert target.read_text() == 'kept'
    assert good.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_full_disk_leaves_the_target_alone(tmp_path, monkeypatch):
    from mmrfa.convert import files

    def fail(content, stream):
        stream.write(b'half')
        raise OSError(28, 'No space left on device')

    target = tmp_path / 'target.pth'
    target.write_text('kept')
    monkeypatch.setattr(files.torch, 'save', fail)
    with pytest.raises(OSError, match='No space'):
        files.save({}, target)
    assert [path.name for path in tmp_path.iterdir()] == ['target.pth']
    assert target.read_text() == 'kept'
