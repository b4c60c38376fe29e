"""Networks of other packages: exact starts, and the authors' weights."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_models import authors_networks as authors
from torch import nn

from mmrfa import convert_convs, plan_convs
from mmrfa.checkpoints.authors import rename_authors
from mmrfa.checkpoints.names import operators_in
from mmrfa.conversion.sample import outputs, relative_error
from mmrfa.errors import InputError

pytestmark = pytest.mark.usefixtures('own_choice')
# Where every block of an authors' network has its operator.
SLOTS = 'layer?.*.conv1'
OPENMMLAB = {
    'SiLU': dict(type='mmdet.CSPDarknet', act_cfg=dict(type='SiLU')),
    'Swish': dict(type='mmdet.CSPDarknet'),
    'CSPNeXt': dict(type='mmdet.CSPNeXt'),
    'RegNet': dict(type='mmdet.RegNet', arch='regnetx_400mf'),
}


def settle(net, x):
    """In float64, norms of some strength with about the image's statistics."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = 1
    net.double().train()
    with torch.no_grad():
        net(x)
    for norm in norms:
        norm.running_var *= 2  # or rounding grows from layer to layer
    net.eval()
    return net


@pytest.mark.parametrize('name', OPENMMLAB)
def test_networks_of_openmmlab(name):
    """By their graph alone; none of them is run before."""
    pytest.importorskip('mmdet')
    from mmengine.registry import MODELS

    config = OPENMMLAB[name]
    if 'CSP' in config['type']:
        config = dict(config, deepen_factor=0.33, widen_factor=0.125)
    x = torch.randn(2, 3, 64, 64).double()
    net = settle(MODELS.build(config), x)
    new = convert_convs(net, 'RFAConv')
    assert relative_error(outputs(new, x), outputs(net, x)) < 1e-12


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_small'])
@pytest.mark.parametrize('operator', ['RFAConv', 'RFCAConv', 'AWConv'])
def test_networks_of_torchvision(name, operator):
    models = pytest.importorskip('torchvision').models
    x = torch.randn(2, 3, 64, 64).double()
    net = settle(getattr(models, name)(), x)
    where = None
    if name != 'resnet18':
        assert '52: 1 the first' in plan_convs(net, operator).problem
        where = 'features.[2-8].block.1.0'  # depthwise, some 5x5
    new = convert_convs(net, operator, where=where, sample=x)
    assert relative_error(outputs(new, x), outputs(net, x)) < 1e-12


def plain(channels, out_channels, stride):
    return nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)


def of_authors(operator):
    """Their network, and its state as it lies in their files."""
    net = authors.random_network(operator, 18)
    state = {f'module.{k}': v for k, v in net.state_dict().items()}
    state['module.layer1.0.conv1.total_ops'] = torch.zeros(1)
    del state['module.bn1.num_batches_tracked']
    return net, state


def load(net, name, state):
    state = {key.removeprefix('module.'): v for key, v in state.items()}
    renamed, network, report = rename_authors(state, 'x')
    assert network == dict(depth=18, attention_conv=dict(type=name))
    assert list(report.dropped) == ['layer1.0.conv1.total_ops']
    assert list(report.missing) == ['bn1.num_batches_tracked']
    net = convert_convs(net, name, where=SLOTS, bias=True, start='fresh')
    net.load_state_dict(renamed, strict=True)
    return net.eval()


@pytest.mark.parametrize(('name', 'operator'), authors.OPERATORS.items())
def test_authors_weights_in_a_converted_network(name, operator):
    theirs, state = of_authors(operator)
    ours = load(authors.Network(plain, 18), name, state)
    x = torch.randn(2, 3, 61, 75)
    with torch.no_grad():
        assert relative_error([ours(x)], [theirs(x)]) < 1e-5
        for stage in ours.layer3, ours.layer4:
            stage[1].conv1.weight.mul_(0.5)
        assert relative_error([ours(x)], [theirs(x)]) > 1e-4


def test_authors_weights_in_torchvision():
    models = pytest.importorskip('torchvision').models
    theirs, state = of_authors(authors.RFA)
    ours = load(models.resnet18(), 'RFAConv', state)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_error([ours(x)], [theirs(x)]) < 1e-5


def test_plain_weights_of_the_authors_are_told():
    state = authors.Network(plain, 18).state_dict()
    with pytest.raises(InputError, match='found plain convolutions'):
        rename_authors(state, 'x')


def test_trains_by_the_recipe_for_ultralytics(tmp_path, monkeypatch):
    """One epoch on noise; its checkpoint goes on and validates."""
    ultralytics = pytest.importorskip('ultralytics')
    from PIL import Image

    text = (Path(__file__).parents[2] / 'docs/any-model.md').read_text()
    recipe = re.findall(r'```python\n(.*?)```', text, re.S)
    (code,) = (block for block in recipe if 'DetectionTrainer' in block)
    module = ModuleType('recipe')
    monkeypatch.setitem(sys.modules, 'recipe', module)
    exec(compile(code, 'any-model', 'exec'), vars(module))
    (tmp_path / 'images').mkdir()
    (tmp_path / 'labels').mkdir()
    for i in range(4):
        pixels = torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f'images/{i}.png')
        (tmp_path / f'labels/{i}.txt').write_text('0 0.5 0.5 0.4 0.4\n')
    data = tmp_path / 'data.yaml'
    data.write_text(
        f'path: {tmp_path}\ntrain: images\nval: images\nnames: [thing]\n'
    )
    settings = dict(
        data=str(data),
        imgsz=64,
        batch=2,
        device='cpu',
        project=str(tmp_path),
        workers=0,
        plots=False,
    )
    yolo = ultralytics.YOLO('yolo11n.yaml')
    yolo.train(trainer=module.RFATrainer, epochs=1, **settings)
    last = tmp_path / 'train/weights/last.pt'
    again = ultralytics.YOLO(last)
    operators = operators_in(again.model)
    assert list(operators) == [f'model.{i}.conv' for i in (1, 3, 5, 7, 17, 20)]
    # trained: no longer as it started
    assert all(op.attn.weight.any() for op in operators.values())
    x = torch.rand(1, 3, 64, 64)
    net = again.model.float().eval()
    before = outputs(net, x)
    assert relative_error(outputs(net.fuse(verbose=False), x), before) < 1e-5
    # weights of a former run, and not another start from them
    trainer = module.RFATrainer(overrides=dict(settings, model=str(last)))
    weights = ultralytics.YOLO(last).model.float()
    model = trainer.get_model('yolo11n.yaml', weights, False)
    assert relative_error(outputs(model, x), before) < 1e-5
    # plain weights
    x = torch.rand(2, 3, 128, 128)
    weights = ultralytics.nn.tasks.DetectionModel('yolo11n.yaml', nc=1)
    weights = settle(weights, x.double()).float()
    model = trainer.get_model(weights.yaml, weights, False)
    assert list(operators_in(model)) == list(operators)
    new, old = outputs(model, x)[0], outputs(weights, x)[0]
    assert relative_error([new], [old]) < 1e-5
