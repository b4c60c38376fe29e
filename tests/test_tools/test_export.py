"""Exported files: the same numbers, whole or not there, explained."""

import errno
import json
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

from mmrfa.deploy import export as exporting
from mmrfa.deploy.exported import Exported, load_exported
from mmrfa.deploy.int8 import evaluate
from mmrfa.deploy.network import build_network, fingerprint, load_network
from mmrfa.deploy.parts import Part, flat, like, part_of
from mmrfa.deploy.predictor import Predictor
from mmrfa.deploy.sources import Source
from mmrfa.engine.config import import_scope, load_config
from mmrfa.errors import InputError

from .tiny_networks import (
    SEG,
    YOLOX,
    masks_of,
    operators,
)
from .tool_calls import REPO, TINY_SEG, error_of, load_tool

pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
pytest.importorskip('onnxscript', reason='onnxscript is not installed')
SIZE = '--size', 64, 96
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def exported(seg_checkpoint, sample_root, tmp_path_factory):
    """The segmentor in both forms, by suffix, and what the tool printed."""
    folder = tmp_path_factory.mktemp('exported')
    files, printed = {}, {}
    for to in 'onnx', 'torch_export':
        suffix = exporting.FORMATS[to].suffix
        files[suffix] = folder / f'net{suffix}'
        files[suffix].write_text('of an earlier export')
        command = SEG, seg_checkpoint, '--to', to, *SIZE
        with pytest.MonkeyPatch.context() as patch, StringIO() as out:
            patch.setenv('MMRFA_DATA_ROOT', str(sample_root))
            with redirect_stdout(out):
                main = load_tool('export.py').main
                main([str(a) for a in (*command, '--out', files[suffix])])
            printed[suffix] = out.getvalue()
    assert set(folder.iterdir()) == set(files.values())
    return files, printed


@pytest.mark.parametrize('suffix', ['.onnx', '.pt2'])
def test_a_segmentor_goes_whole(
    call, suffix, exported, seg_checkpoint, photos, tmp_path, monkeypatch
):
    """Its masks are those of the checkpoint; the file says what it is."""
    files, printed = exported
    for shape in '1x3x96x96', '3x3x96x64':
        assert f'{shape}: differs from PyTorch by ' in printed[suffix]
    for file in (seg_checkpoint, files[suffix]):
        options = ['--trust-checkpoint'] if file.suffix == '.pt2' else []
        status = call(
            'predict.py', SEG, file, photos, '--device', 'cpu', *options,
            '--out', tmp_path / file.suffix[1:], '--batch-size', 2,
        )  # fmt: skip
        assert status == 0
    wanted = masks_of(tmp_path / 'pth')
    got = masks_of(tmp_path / suffix[1:])
    assert len(np.unique(wanted['1.png'])) > 1
    for name, mask in wanted.items():
        assert (got[name] == mask).mean() > 0.999

    monkeypatch.setenv('MMRFA_TRUST_CHECKPOINT', '1')
    description = load_exported(files[suffix], CPU).description
    assert description['task'] == 'segmentation'
    assert description['classes'][1] == 'ball'
    given = description['input']
    assert (given['channels'], given['size_divisor']) == ('RGB', 32)
    assert given['mean'] == [127.5] * 3 and given['std'] == [60.0] * 3
    assert [s['type'] for s in given['pipeline']][:2] == [
        'LoadImageFromFile',
        'Resize',
    ]
    assert 'argmax' in description['after']


def test_windows_slide_over_large_images(
    call, exported, seg_checkpoint, photos, tmp_path, monkeypatch
):
    """Where the config says so, with a program in the place of the network."""
    from mmseg.models import EncoderDecoder

    whole = EncoderDecoder.slide_inference
    seen = []

    def slide(model, images, metas):
        seen.append(tuple(images.shape))
        return whole(model, images, metas)

    monkeypatch.setattr(EncoderDecoder, 'slide_inference', slide)
    for file in seg_checkpoint, exported[0]['.onnx']:
        status = call(
            'predict.py', SEG, file, photos / '1.png', '--device', 'cpu',
            '--out', tmp_path / file.suffix[1:], '--cfg-options',
            'model.test_cfg.mode=slide', 'model.test_cfg.crop_size=(32,32)',
            'model.test_cfg.stride=(24,24)',
        )  # fmt: skip
        assert status == 0
    assert seen == [(1, 3, 64, 64)] * 2
    wanted, got = (
        masks_of(tmp_path / kind)['1.png'] for kind in ('pth', 'onnx')
    )
    assert len(np.unique(wanted)) > 1
    assert (got == wanted).mean() > 0.999


def test_the_description_is_enough(
    call, exported, seg_checkpoint, photos, tmp_path
):
    """ONNX by hand, without OpenMMLab: the class of every pixel."""
    import onnxruntime

    pixels = np.asarray(Image.open(photos / '1.png').resize((64, 64)))
    Image.fromarray(pixels).save(photos / '1.png')  # nothing to resize
    command = 'predict.py', SEG, seg_checkpoint, photos / '1.png'
    assert call(*command, '--out', tmp_path, '--device', 'cpu') == 0
    session = onnxruntime.InferenceSession(exported[0]['.onnx'])
    text = session.get_modelmeta().custom_metadata_map['mmrfa']
    given = json.loads(text)['input']
    assert given['channels'] == 'RGB'
    images = ((pixels - given['mean']) / given['std']).transpose(2, 0, 1)[None]
    (logits,) = session.run(None, {given['name']: np.float32(images)})
    wanted = masks_of(tmp_path)['1.png']
    assert (logits.argmax(1)[0] == wanted).mean() > 0.999


@operators
def test_a_program_takes_the_place_of_a_detectors_network(
    yolox_checkpoint, photos
):
    """As far as its head; boxes are decoded as they always are."""
    config = load_config(str(YOLOX))
    source = Source(str(photos))
    model, other = (load_network(config, str(yolox_checkpoint)) for _ in '12')

    def boxes(network):
        found = Predictor(config, network)(source)
        return [prediction.sample.pred_instances for prediction in found]

    wanted = boxes(model)
    part, emptied = part_of(model), part_of(other)
    assert part.task == 'detection' and len(part.outputs) == 9
    del other.backbone, other.neck
    emptied.plug(part.module)
    got = boxes(other)
    assert len(got) == 3
    for one, another in zip(got, wanted):
        assert len(one) > 0
        torch.testing.assert_close(one.bboxes, another.bboxes)
        torch.testing.assert_close(one.scores, another.scores)


@operators
def test_of_two_stages_the_features_go():
    config = REPO / 'configs/faster_rcnn/faster-rcnn_r18-rfa_fpn_1x_coco.py'
    model = build_network(load_config(config))
    part = part_of(model)
    assert part.task == 'features' and part.plug is None
    assert not part.module.training  # exporters warn
    assert 'heads of FasterRCNN' in part.after
    with torch.no_grad():
        shapes = [y.shape[1:] for y in part.module(torch.zeros(1, 3, 64, 96))]
    assert shapes[0] == (256, 16, 24) and len(shapes) == len(part.outputs) == 5


def test_outputs_are_nested_again_as_they_were():
    tensors = [torch.tensor(i) for i in range(5)]
    nested = ([tensors[0], tensors[1]], (tensors[2],), [[tensors[3]]])
    assert flat(nested) == tensors[:4]
    assert like(nested, tensors[1:]) == (
        [tensors[1], tensors[2]],
        (tensors[3],),
        [[tensors[4]]],
    )


@pytest.fixture
def fails(call, capsys, seg_checkpoint, tmp_path):
    """``fails(...)``: the line of an export that leaves the file alone."""
    target = tmp_path / 'net.pt2'
    target.write_text('of an earlier export')

    def run(*options, checkpoint=seg_checkpoint) -> str:
        status = call(
            'export.py', SEG, checkpoint, '--to', 'torch_export', *SIZE,
            '--out', target, *options,
        )  # fmt: skip
        line = error_of(status, capsys.readouterr().err)
        assert target.read_text() == 'of an earlier export'
        assert list(tmp_path.glob('*.pt2')) == [target]
        assert not list(tmp_path.glob('.part*'))
        return line

    return run


def test_a_file_that_differs_is_not_kept(fails, monkeypatch):
    parts = []

    def write(part, images, file, text):
        parts.append(part.module)
        file.write_text('of another network')

    def wrong(file, device):
        assert file.read_text() == 'of another network'
        return Exported(lambda x: [y + 1 for y in parts[-1](x)], {})

    kind = exporting.FORMATS['torch_export']._replace(write=write)
    monkeypatch.setitem(exporting.FORMATS, 'torch_export', kind)
    monkeypatch.setattr(exporting, 'load_exported', wrong)
    line = fails()
    assert 'expected at most 0.0001 of difference' in line
    assert 'nothing was kept' in line


def test_no_space_is_one_line(fails, monkeypatch):
    def full(part, images, file, text):
        file.write_text('half of')
        raise OSError(errno.ENOSPC, 'No space left on device')

    kind = exporting.FORMATS['torch_export']._replace(write=full)
    monkeypatch.setitem(exporting.FORMATS, 'torch_export', kind)
    line = fails()
    assert 'No space left on device: ' in line and line.endswith('/net.pt2')


def test_weights_that_are_no_numbers(fails, seg_checkpoint, tmp_path):
    content = torch.load(seg_checkpoint, weights_only=False)
    key = list(content['state_dict'])[0]
    content['state_dict'][key].view(-1)[0] = float('nan')
    torch.save(content, tmp_path / 'nan.pth')
    line = fails(checkpoint=tmp_path / 'nan.pth')
    assert 'nan.pth: expected finite weights' in line and key in line


def test_options_that_do_not_fit(fails, tmp_path):
    assert '--size: expected 32 or more' in fails('--size', 64, 16)
    assert 'pixels at most' in fails('--size', 64, 10**11)
    assert 'ends in .pt2' in fails('--out', tmp_path / 'net.onnx')
    line = fails('--out', tmp_path / 'net.pt2' / 'deeper.pt2')
    assert 'is not a folder' in line


def test_the_checkpoint_is_not_replaced(fails, tmp_path):
    line = fails(checkpoint=tmp_path / 'net.pt2')
    assert 'net.pt2: expected another file to write' in line


def test_difference_by_hand():
    wanted = (torch.tensor([1.0, -4.0]), torch.tensor([2.0]))
    got = [torch.tensor([1.2, -4.0]), torch.tensor([2.1])]
    found = exporting.difference(got, wanted)
    assert found == pytest.approx(0.05, rel=1e-4)
    assert exporting.difference(got[:1], wanted) == float('inf')
    assert exporting.difference(got[::-1], wanted) == float('inf')
    nan = [torch.tensor([1.0, float('nan')]), got[1]]
    assert not exporting.difference(nan, wanted) <= 1


def test_exported_files_that_are_refused(
    call, exported, photos, tmp_path, capsys, monkeypatch
):
    import onnx
    from onnx import TensorProto, helper

    target = exported[0]['.pt2']
    (tmp_path / 'bytes.onnx').write_bytes(b'no network')
    (tmp_path / 'bytes.pt2').write_bytes(b'no network')

    def one_node(name, operator, **metadata):
        images, out = (
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8])
            for n in ('images', 'out')
        )
        node = helper.make_node(operator, ['images'], ['out'])
        graph = helper.make_graph([node], 'g', [images], [out])
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8
        )
        helper.set_model_props(model, metadata)
        onnx.save(model, tmp_path / name)

    one_node('operator.onnx', 'RFAConvolution')
    one_node('foreign.onnx', 'Relu')
    one_node('other.onnx', 'Relu', mmrfa='{"config": "1", "network": "UNet"}')
    monkeypatch.delenv('MMRFA_TRUST_CHECKPOINT', raising=False)
    for config, name, words in (
        (SEG, target, 'a .pt2 file can hold code'),
        (SEG, 'bytes.pt2', 'cannot be loaded here'),
        (SEG, 'bytes.onnx', 'cannot be loaded here'),
        (SEG, 'operator.onnx', 'RFAConvolution'),
        (SEG, 'foreign.onnx', 'expected a file of tools/export.py'),
        (SEG, 'other.onnx', 'got UNet of another config'),
    ):
        status = call(
            'predict.py', config, tmp_path / name, photos,
            '--out', tmp_path / 'out',
        )  # fmt: skip
        assert words in error_of(status, capsys.readouterr().err), name
        assert not (tmp_path / 'out').exists()
    status = call(
        'predict.py', TINY_SEG, target, photos, '--trust-checkpoint',
        '--out', tmp_path / 'out',
    )  # fmt: skip
    line = error_of(status, capsys.readouterr().err)
    assert 'got EncoderDecoder of another config' in line


def test_a_missing_runtime_names_the_extra(
    call,
    seg_checkpoint,
    photos,
    tmp_path,
    capsys,
    monkeypatch,
):
    import sys

    monkeypatch.setitem(sys.modules, 'openvino', None)
    status = call(
        'export.py', SEG, seg_checkpoint, '--to', 'openvino', *SIZE,
        '--out', tmp_path / 'net.xml',
    )  # fmt: skip
    line = error_of(status, capsys.readouterr().err)
    assert 'openvino' in line and 'mmrfa[openvino]' in line
    assert not (tmp_path / 'net.xml').exists()


@operators
def test_the_fingerprint_is_that_of_the_network():
    """Not of what training, testing or building adds to the config."""
    config = load_config(str(YOLOX))
    before = fingerprint(config)
    assert build_network(config).fingerprint == before
    config = load_config(str(YOLOX))
    config.model.test_cfg.score_thr = 0.5
    assert fingerprint(config) == before
    config.model.bbox_head.num_classes = 7
    assert fingerprint(config) != before


def test_networks_of_other_kinds_are_refused():
    with pytest.raises(InputError, match='an image classifier, got Linear'):
        part_of(torch.nn.Linear(1, 1))


def test_int8_is_scored_beside_float(
    exported,
    seg_checkpoint,
    photos,
    sample_root,
    tmp_path,
    capsys,
    monkeypatch,
):
    import onnx

    monkeypatch.setenv('MMRFA_DATA_ROOT', str(sample_root))
    target = Path(shutil.copy(exported[0]['.onnx'], tmp_path))
    config = load_config(SEG)
    model = load_network(config, str(seg_checkpoint))
    tool = load_tool('export.py')
    tool.to_int8(config, model, Source(str(photos)), target, 2)
    printed = capsys.readouterr().out
    float32, int8 = re.search(
        r'^mIoU: ([\d.]+) in float32, ([\d.]+) in int8$', printed, re.M
    ).groups()
    assert abs(float(float32) - float(int8)) < 5
    small = tmp_path / 'net.int8.onnx'
    kinds = {node.op_type for node in onnx.load(small).graph.node}
    assert 'DequantizeLinear' in kinds
    images = torch.randn(1, 3, 96, 64)
    exact, rounded = (load_exported(f, CPU) for f in (target, small))
    assert exact.description == rounded.description
    error = exporting.difference(
        rounded.program(images), exact.program(images)
    )
    assert 1e-4 < error < 0.5  # other numbers, of the same network


@pytest.mark.parametrize('count', [5, 100])
def test_detectors_are_scored_on_what_was_looked_at(
    count, data_root, monkeypatch
):
    """What was not is not missed: who finds all has an AP of 1."""

    class Perfect:
        def test_step(self, batch):
            for sample in batch['data_samples']:
                found = sample.gt_instances.clone()
                boxes = getattr(found.bboxes, 'tensor', found.bboxes)
                found.bboxes = boxes / boxes.new_tensor(
                    [*sample.scale_factor] * 2
                )
                found.scores = torch.ones(len(found))
                sample.pred_instances = found
            return [s.to_dict() for s in batch['data_samples']]

    monkeypatch.setenv('MMRFA_DATA_ROOT', str(data_root('bccd').parent))
    config = load_config(
        str(REPO / 'configs/faster_rcnn/faster-rcnn_r18_fpn_1xb4-36e_bccd.py')
    )
    import_scope(config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        found = evaluate(config, Perfect(), count)
    assert found['coco/bbox_mAP_50'] > 0.99


def test_int8_needs_data_and_onnx(call, seg_checkpoint, photos, capsys):
    command = 'export.py', SEG, seg_checkpoint, '--int8', photos, '--to'
    status = call(*command, 'torch_export')
    line = error_of(status, capsys.readouterr().err)
    assert '--int8: expected --to onnx' in line
    status = call(
        *command,
        'onnx',
        '--cfg-options',
        'test_dataloader.dataset.data_root=no',
    )
    line = error_of(status, capsys.readouterr().err)
    assert 'test_dataloader: expected data at' in line
    assert not seg_checkpoint.with_suffix('.onnx').exists()


def test_without_a_compiler_is_one_line(tmp_path, monkeypatch):
    def none(*args, **kwargs):
        raise RuntimeError('No working C++ compiler found in\n(None, "g++")')

    import torch._inductor

    monkeypatch.setattr(torch._inductor, 'aoti_compile_and_package', none)
    monkeypatch.setattr(exporting, '_traced', lambda module, images: None)
    part = Part('task', torch.nn.ReLU(), ['out'], '', None)
    with pytest.raises(InputError, match=r'compiled here: No working C\+\+'):
        exporting._to_aoti(part, torch.zeros(1), tmp_path / 'net.pt2', '{}')


def test_openvino(call, seg_checkpoint, tmp_path, capsys, monkeypatch):
    reason = 'openvino is not installed'
    openvino = pytest.importorskip('openvino', reason=reason)
    compiled = []

    def compile_model(*args, original=openvino.compile_model):
        compiled.append(original(*args))
        return compiled[-1]

    monkeypatch.setattr(openvino, 'compile_model', compile_model)
    target = tmp_path / 'net.xml'
    command = 'export.py', SEG, seg_checkpoint, '--to', 'openvino', *SIZE
    assert call(*command, '--out', target) == 0, capsys.readouterr().err
    assert '3x3x96x64: differs' in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {'net.xml', 'net.bin'}
    description = load_exported(target, CPU).description
    hint = compiled[-1].get_property('INFERENCE_PRECISION_HINT')
    assert hint == openvino.Type.f32  # on every CPU, and no narrower type
    assert description['classes'][1] == 'ball'


@pytest.mark.parametrize('name', ['', 'none.pth'])
def test_no_checkpoint(fails, name):
    line = fails(checkpoint=name)
    assert f'checkpoint {name}: expected a file, found none' in line
