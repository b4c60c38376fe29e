"""Pictures of the attention: the arrays behind them, and that they appear."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from mmrfa.inspection import evenness
from mmrfa.layers import AWConv, CAConv, CAMConv, CBAMConv, RFAConv, RFCAConv

from .tiny_networks import SEG
from .tool_calls import error_of, load_tool

TOOL = 'analysis_tools/show_attention.py'


@pytest.fixture(scope='module')
def tool():
    return load_tool(TOOL)


def view_of(tool, layer, channel=None):
    x = torch.rand(1, 6, 8, 10)
    attention = layer.eval().attention(x)
    return attention, tool.digest(layer, attention, channel)


def test_taps_of_a_softmax(tool):
    layer = RFAConv(6, 4, (2, 3), (1, 2), (0, 1), (1, 2))
    attention, view = view_of(tool, layer)
    taps = attention['taps'][0]
    assert view.taps.shape == (2, 3, 7, 4)
    wanted = taps.mean(0)
    for tap in range(6):
        got = view.taps[divmod(tap, 3)]
        np.testing.assert_allclose(got, wanted[tap], atol=1e-6)
    np.testing.assert_allclose(view.taps.sum((0, 1)), 1, atol=1e-5)
    spread = taps.std(0, correction=0).view(2, 3, 7, 4)
    np.testing.assert_allclose(view.spread, spread, atol=1e-6)
    even = evenness(attention['taps'])[0].mean(0)
    np.testing.assert_allclose(view.even, even, atol=1e-6)
    assert view.step == (1, 1)  # dilation 1 at stride 1, 2 at 2
    _, one = view_of(tool, layer, channel=2)
    assert one.spread.max() == 0


def test_taps_of_gates_and_gates(tool):
    attention, view = view_of(tool, RFCAConv(6, 4, 3, 1, 1))
    product = (attention['rows'] * attention['columns'])[0, :, 5].mean(0)
    np.testing.assert_allclose(view.taps[1, 2], product, atol=1e-6)
    assert view.even is None and view.pixels is None

    attention, view = view_of(tool, CAConv(6, 4, 3, 1, 1))
    product = (attention['rows'] * attention['columns'])[0].mean(0)
    np.testing.assert_allclose(view.pixels, product, atol=1e-6)
    attention, view = view_of(tool, CBAMConv(6, 4, 3, 1, 1), channel=1)
    product = attention['channels'][0, 1] * attention['pixels'][0, 0]
    np.testing.assert_allclose(view.pixels, product, atol=1e-6)
    attention, view = view_of(tool, CAMConv(6, 4, 3, 1, 1))
    assert view.pixels is None and view.channels.shape == (6,)
    attention, view = view_of(tool, AWConv(6, 4, 3, 1, 1))
    assert view.kernel.shape == (4, 6, 3, 3) and view.channels is None


def test_points_find_their_windows(tool):
    canvas = np.zeros((40, 60, 3), np.uint8)
    taps = np.zeros((3, 3, 4, 6))
    taps[1, 1, 3, 0] = taps[0, 0, 0, 3] = taps[2, 2, 1, 5] = 1
    view = tool.View(taps)
    assert tool.windows(view, None, canvas) == [(3, 0), (0, 3), (1, 5)]
    points = [(0, 0), (59.9, 39.9), (25, 10)]
    assert tool.windows(view, points, canvas) == [(0, 0), (3, 5), (1, 2)]
    assert tool.place((50, 30), (0.5, 0.5), (0, 0), canvas) == (25, 15)
    assert tool.place((50, 30), (0.5, 0.5), (3, 9), canvas) == (28, 24)


def test_a_picture_a_layer(call, seg_checkpoint, tmp_path):
    image = tmp_path / 'photo.png'
    noise = np.random.randint(0, 255, (50, 70, 3), np.uint8)
    Image.fromarray(noise).save(image)
    command = TOOL, SEG, seg_checkpoint, image, '--device', 'cpu'
    out = tmp_path / 'out'
    assert call(*command, '--out', out, '--points', '10,10', '60,40') == 0
    names = {path.name for path in out.iterdir()}
    assert names == {f'backbone.layer1.{i}.conv1.png' for i in (0, 1)}
    for path in out.iterdir():
        with Image.open(path) as picture:
            assert len(picture.convert('RGB').getcolors(2**24)) > 1000
    out = tmp_path / 'random'
    command = TOOL, SEG, 'none', image, '--layers', '*.1.conv1'
    assert call(*command, '--out', out, '--channel', 3) == 0
    assert [p.name for p in out.iterdir()] == ['backbone.layer1.1.conv1.png']


@pytest.mark.parametrize('operator', ['CBAMConv', 'AWConv', 'RFCBAMConv'])
def test_pictures_of_other_operators(tool, operator, tmp_path):
    import mmrfa.layers

    layer = getattr(mmrfa.layers, operator)(6, 4, 3, 1, 1)
    _, view = view_of(tool, layer)
    canvas = np.zeros((16, 20, 3), np.uint8)
    path = tmp_path / 'a.png'
    tool.draw(canvas, view, None, operator, path)
    with Image.open(path) as picture:
        assert len(picture.convert('RGB').getcolors(2**24)) > 100
        size = picture.size
    tool.draw(canvas, view, None, operator, path, view)
    with Image.open(path) as picture:
        assert picture.size == (size[0], 2 * size[1])


def test_before_and_after_share_windows_and_colours(
    call, tool, seg_checkpoint, tmp_path, monkeypatch
):
    image = tmp_path / 'photo.png'
    noise = np.random.randint(0, 255, (50, 70, 3), np.uint8)
    Image.fromarray(noise).save(image)
    drawn = []
    monkeypatch.setattr(
        'matplotlib.axes.Axes.imshow',
        lambda axis, values, *args, _shown=Axes.imshow, **kwargs: (
            drawn.append((np.asarray(values), kwargs)),
            _shown(axis, values, *args, **kwargs),
        )[1],
    )
    command = TOOL, SEG, seg_checkpoint, image, '--device', 'cpu'
    layer = '--layers', '*.1.conv1'
    out = tmp_path / 'out'
    assert call(*command, *layer, '--out', out, '--before', 'none') == 0
    assert [p.name for p in out.iterdir()] == ['backbone.layer1.1.conv1.png']
    maps = [(v, k) for v, k in drawn if v.ndim == 2 and v.shape != (3, 3)]
    before, after = maps[:10], maps[10:]
    assert len(before) == len(after) == 10  # nine taps and the entropy
    for (one, limits), (other, same) in zip(before, after):
        assert limits == same
        assert not np.allclose(one, other)
        values = np.stack([one, other])
        assert limits['vmin'] <= values.min() + 1e-6
        assert values.max() <= limits['vmax'] + 1e-6


def test_bad_input_is_one_line(
    call,
    seg_checkpoint,
    tmp_path,
    capsys,
):
    image = tmp_path / 'photo.png'
    Image.new('RGB', (20, 20)).save(image)
    for options, words in (
        (['--points', '1'], '--points: expected X,Y'),
        (['--points', '25,1'], 'inside the image, got 25,1'),
        (['--layers', 'backbone.layer9'], 'got backbone.layer9'),
        (['--channel', '99'], '--channel: expected 0 to'),
    ):
        status = call(
            TOOL, SEG, seg_checkpoint, image, '--out', tmp_path / 'out',
            '--device', 'cpu', *options,
        )  # fmt: skip
        assert words in error_of(status, capsys.readouterr().err)
        assert not (tmp_path / 'out').exists()
    crops = tmp_path / 'crops.py'
    crops.write_text(
        f'_base_ = {str(SEG)!r}\n'
        'steps = _base_.test_dataloader.dataset.pipeline\n'
        'steps[1] = dict(type="RandomCrop", crop_size=(8, 8))\n'
        'test_dataloader = dict(dataset=dict(pipeline=steps))\n'
    )
    status = call(
        TOOL, crops, seg_checkpoint, image, '--out', tmp_path / 'out',
        '--device', 'cpu', '--points', '1,1',
    )  # fmt: skip
    line = error_of(status, capsys.readouterr().err)
    assert 'keeps the whole image' in line and line.endswith('crops it')
    (tmp_path / 'folder').mkdir()
    for name in ('a', 'b'):
        Image.new('RGB', (20, 20)).save(tmp_path / 'folder' / f'{name}.png')
    status = call(
        TOOL, SEG, seg_checkpoint, tmp_path / 'folder', '--out', tmp_path,
    )  # fmt: skip
    assert 'expected one image' in error_of(status, capsys.readouterr().err)
