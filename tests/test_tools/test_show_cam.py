"""Class activation maps: by hand, beside another network, and refused."""

import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image
from torch.nn.functional import interpolate

from mmrfa.deploy.cam import Boxes, Cam, Pixels
from mmrfa.deploy.network import load_network, network_of
from mmrfa.deploy.predictor import Predictor
from mmrfa.deploy.sources import Source
from mmrfa.engine.config import load_config
from mmrfa.errors import InputError

from .tiny_networks import SEG, YOLOX, operators, options_of
from .tool_calls import REPO, error_of

TOOL = 'analysis_tools/show_cam.py'
pytest.importorskip('captum', reason='captum is not installed')


def cam_of(config, model, image, **options) -> Cam:
    (frame,) = Source(str(image))
    return Cam(model, Predictor(config, model).read(frame)[1], **options)


@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.9])
def test_one_channel_is_split_where_the_network_splits_it(threshold):
    logits = torch.linspace(-4, 4, 40).view(1, 1, 5, 8)
    model = SimpleNamespace(decode_head=SimpleNamespace(threshold=threshold))
    pixels = Pixels(model, SimpleNamespace(module=lambda x: (logits,)))
    both = pixels.run(None, [])
    wanted = logits[0, 0].sigmoid() > threshold
    assert torch.equal(both.argmax(0) == 1, wanted)
    assert pixels.found(both)[1] == pytest.approx(wanted.float().mean())


def test_the_map_is_that_of_the_equations(seg_checkpoint, photos):
    """Mean gradient of each channel times the channel, summed, above 0."""
    config = load_config(str(SEG))
    model = load_network(config, str(seg_checkpoint))
    cam = cam_of(config, model, photos / '1.png')
    assert cam.layer == 'backbone.layer1'
    assert sum(cam.found.values()) == pytest.approx(1)
    label = min(cam.found, key=cam.found.get)
    where = cam.pixels(label)
    assert where.float().mean().item() == pytest.approx(cam.found[label])

    features = model.backbone(cam.images)[0].detach().requires_grad_()
    metas = [dict(img_shape=cam.size)]
    logits = model.decode_head.predict([features], metas, model.test_cfg)
    logits[0, label][where].mean().backward()
    weights = features.grad.mean((2, 3), keepdim=True)
    wanted = (weights * features).sum(1, keepdim=True).relu().detach()
    wanted = interpolate(wanted, cam.size, mode='bilinear')[0, 0]
    assert wanted.max() > 0
    got = cam.map(label, where)
    torch.testing.assert_close(got, wanted / wanted.max())
    assert all(p.grad is None for p in model.backbone.parameters())

    deeper = cam_of(config, model, photos / '1.png', layer='backbone.maxpool')
    assert deeper.map(label, where).shape == got.shape
    for layer in 'backbone.layer9', 'backbone.layer1.0.relu9':
        with pytest.raises(InputError, match=f'got {layer}'):
            cam_of(config, model, photos / '1.png', layer=layer)
    with pytest.raises(InputError, match='that gives features'):
        cam_of(config, model, photos / '1.png', layer='backbone')


def test_a_network_beside_its_plain_twin(
    call, seg_checkpoint, photos, tmp_path, capsys
):
    plain = tmp_path / 'plain.py'
    plain.write_text(
        f'_base_ = {str(SEG)!r}\n'
        'model = dict(backbone=dict(attention_conv=None))\n'
    )
    command = TOOL, SEG, seg_checkpoint, photos / '1.png', '--device', 'cpu'
    sizes = []
    for options in (), ('--beside', plain, 'none'):
        out = tmp_path / 'new' / 'cam.png'
        status = call(*command, '--out', out, *options, '--classes', 'ball')
        printed = capsys.readouterr()
        assert status == 0, printed.err
        assert printed.out.endswith(f'ball: {out}\n')
        with Image.open(out) as picture:
            sizes.append(picture.size)
            assert len(picture.convert('RGB').getcolors(2**24)) > 1000
    assert sizes[0][0] == sizes[1][0]
    assert 1.5 < sizes[1][1] / sizes[0][1] < 2  # two rows


@operators
@pytest.mark.parametrize('stages', [1, 2])
def test_boxes_of_a_detector(stages, yolox_checkpoint, photos):
    """A sum of scores: without the features nothing speaks for it."""
    if stages == 1:
        config = load_config(str(YOLOX))
        model = load_network(config, str(yolox_checkpoint))
        layer = 'backbone.stage4'
    else:
        config = load_config(
            str(REPO / 'configs/faster_rcnn/faster-rcnn_r18_fpn_1x_coco.py'),
            options_of(
                [
                    '',
                    'test_dataloader.dataset.pipeline.1.scale=(64,64)',
                    'model.test_cfg.rcnn.score_thr=0.0',
                ]
            ),
        )
        model = network_of(config, 'none')
        layer = 'backbone.layer4'
    cam = cam_of(config, model, photos / '1.png', least=0.0)
    assert cam.layer == layer and cam.pixels(0) is None
    label = max(cam.found, key=cam.found.get)
    assert cam.found[label] == (cam.outputs.labels == label).sum()
    found = cam.map(label, None)
    assert found.shape == cam.size
    assert found.min() >= 0 and found.max() in (0, 1)
    none = cam_of(config, model, photos / '1.png', least=2.0)
    assert none.found == {}
    if stages == 2:  # which boxes there are is not explained
        cam = cam_of(
            config, model, photos / '1.png', layer='rpn_head.rpn_conv', least=0
        )
        with pytest.raises(InputError, match='comes from, got rpn_head.rpn'):
            cam.map(label, None)


def test_a_head_that_cuts_the_gradient_is_named():
    found = InstanceData(scores=torch.ones(2), labels=torch.zeros(2).long())
    view = Boxes(SimpleNamespace(bbox_head=torch.nn.ReLU()), None, 0.3)
    with pytest.raises(InputError, match='two stages, YOLO.* got ReLU'):
        view.score(found, 0, None)


def test_bad_input_is_one_line(
    call, seg_checkpoint, photos, tmp_path, capsys, monkeypatch
):
    other = tmp_path / 'other.py'
    other.write_text(
        f'_base_ = {str(SEG)!r}\n'
        'meta = dict(metainfo=dict(classes=tuple("abcd")))\n'
        'test_dataloader = dict(dataset=meta)\n'
    )
    image = photos / '1.png'
    out = tmp_path / 'cam.png'
    for options, words in (
        (['--classes', 'sky'], 'expected some of background, ball, book'),
        (['--layer', 'layer9'], 'such as backbone.layer4, got layer9'),
        (['--out', tmp_path / 'cam.txt'], 'expected a file FILE.png'),
        (['--beside', other, 'none'], '--beside: expected a network of the'),
        (['--beside', 'none.py', 'none'], 'expected a file, found none'),
    ):
        options = options if '--out' in options else ['--out', out, *options]
        status = call(
            TOOL, SEG, seg_checkpoint, image, '--device', 'cpu', *options
        )
        assert words in error_of(status, capsys.readouterr().err), options
        assert not out.exists()
    monkeypatch.setitem(sys.modules, 'captum', None)
    status = call(TOOL, SEG, seg_checkpoint, image, '--out', out)
    line = error_of(status, capsys.readouterr().err)
    assert 'captum' in line and 'pip install "mmrfa[cam]"' in line


@operators
def test_pictures_of_a_detector(call, yolox_checkpoint, photos, capsys):
    out = photos / 'cam.png'
    command = TOOL, YOLOX, yolox_checkpoint, photos / '1.png', '--out', out
    command = *command, '--device', 'cpu'
    assert call(*command, '--score', 2) == 2
    assert 'error: --score: expected boxes' in capsys.readouterr().err
    assert not out.exists()
    status = call(*command, '--score', 0, '--beside', YOLOX, 'none')
    assert status == 0, capsys.readouterr().err
    with Image.open(out) as picture:
        assert len(picture.convert('RGB').getcolors(2**24)) > 1000
