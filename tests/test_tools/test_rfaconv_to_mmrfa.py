"""The tool that converts checkpoints of the RFAConv authors."""

from functools import partial

import pytest
import torch
from test_models import authors_networks as authors

from mmrfa.models import RFAResNet


@pytest.fixture
def tool(call):
    return partial(call, 'model_converters/rfaconv_to_mmrfa.py')


@pytest.fixture(scope='module')
def state():
    return dict(authors.random_network(authors.CAM, 18).state_dict())


def test_result_loads_as_pretrained(tool, state, tmp_path, capsys):
    source, target = tmp_path / 'a.pth', tmp_path / 'folder/b.pth'
    theirs = {f'module.{key}': value for key, value in state.items()}
    torch.save(dict(epoch=3, model_state_dict=theirs), source)
    assert tool(source, target) == 0
    printed = capsys.readouterr().out
    assert 'ResNet-18 with CAMConv' in printed
    assert all(f'  {key}' in printed for key in state)
    assert '  fc.weight: ' in printed
    settings = dict(depth=18, attention_conv=dict(type='CAMConv'))
    init = dict(type='Pretrained', checkpoint=str(target))
    ours = RFAResNet(**settings, init_cfg=init)
    ours.init_weights()
    written = torch.load(target, weights_only=True)['state_dict']
    own = ours.state_dict()
    assert own.keys() == written.keys()
    assert all(torch.equal(own[key], written[key]) for key in own)


class Hostile:
    def __reduce__(self):
        return print, ('ran',)


def test_bad_files_leave_the_target_alone(tool, state, tmp_path, capsys):
    """Truncated, hostile, of another kind, absent, or the target itself."""
    good = tmp_path / 'good.pth'
    torch.save(dict(model_state_dict=state), good)
    (tmp_path / 'cut.pth').write_bytes(good.read_bytes()[:5000])
    torch.save({'model_state_dict': Hostile()}, tmp_path / 'hostile.pth')
    lacks = {k: v for k, v in state.items() if 'layer3.0.conv1.mlp' not in k}
    torch.save(dict(state_dict=lacks), tmp_path / 'lacks.pth')
    target = tmp_path / 'target.pth'
    target.write_text('kept')
    cases = [
        (tmp_path / f'{name}.pth', target)
        for name in ('cut', 'hostile', 'lacks', 'absent')
    ]
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
