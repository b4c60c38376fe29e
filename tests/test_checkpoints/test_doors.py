"""Whatever way a checkpoint comes in, no code in it is run."""

import os
import pickle

import mmseg.apis
import pytest
import torch
from mmengine.runner import CheckpointLoader, load_checkpoint
from test_tools.tool_calls import TINY_SEG
from torch import nn

import mmrfa.models  # noqa: F401
from mmrfa.checkpoints.reading import load_predictions
from mmrfa.errors import InputError
from mmrfa.models.weights.pretrained import fetch_weights


class Mark:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A file that would leave a mark, also where downloads are kept."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    kept = tmp_path / 'torch/hub/checkpoints'
    kept.mkdir(parents=True)
    path = tmp_path / 'hostile.pth'
    torch.save(dict(state_dict=Mark(tmp_path / 'ran')), path)
    for name in (path.name, 'resnet18_v1c-b5776b93.pth'):
        (kept / name).write_bytes(path.read_bytes())
    yield path
    assert not (tmp_path / 'ran').exists()


URL = 'https://nowhere.invalid/hostile.pth'


@pytest.mark.parametrize('place', ['{}', URL, 'open-mmlab://resnet18_v1c'])
def test_loaders_of_mmengine(hostile, place) -> None:
    """Importing mmrfa.models is enough."""
    place = place.format(hostile)
    for read in (
        lambda: CheckpointLoader.load_checkpoint(place),
        lambda: load_checkpoint(nn.Linear(1, 1), place),
        lambda: fetch_weights(place),
    ):
        with pytest.raises(InputError, match='refused to run .*mkdir'):
            read()


@pytest.mark.parametrize('name', ['init_model', 'MMSegInferencer'])
def test_models_by_config(hostile, name) -> None:
    build = getattr(mmseg.apis, name)
    with pytest.raises(InputError, match='refused to run .*mkdir'):
        build(str(TINY_SEG), str(hostile), device='cpu')


def test_model_by_its_checkpoint_alone(tmp_path) -> None:
    """The settings in it would be run as a program."""
    program = f'import os; os.mkdir({str(tmp_path / "ran")!r}); model = 1'
    meta, hub = dict(cfg=program), dict(runtime_info=dict(cfg=program))
    torch.save(dict(meta=meta, message_hub=hub), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='Cannot find the config'):
        mmseg.apis.MMSegInferencer(
            None, weights=str(tmp_path / 'a.pth'), device='cpu'
        )
    assert not (tmp_path / 'ran').exists()


def test_predictions(hostile, tmp_path) -> None:
    """They are pickles; those of a test have tensors in them."""
    path = tmp_path / 'out.pkl'
    path.write_bytes(pickle.dumps([dict(a=Mark(tmp_path / 'ran'))]))
    with pytest.raises(InputError, match='refused to run .*mkdir'):
        load_predictions(path)
    wanted = [dict(img_path='a.jpg', data=torch.arange(6).view(2, 3))]
    path.write_bytes(pickle.dumps(wanted, 2))
    (found,) = load_predictions(path)
    assert found['img_path'] == 'a.jpg'
    assert torch.equal(found['data'], wanted[0]['data'])
    # The bytes of a tensor are a file of their own.
    bad = pickle.dumps(dict(a=Mark(tmp_path / 'ran')), 2)
    path.write_bytes(
        b'\x80\x02ctorch.storage\n_load_from_bytes\nB'
        + len(bad).to_bytes(4, 'little') + bad + b'\x85R.'
    )  # fmt: skip
    with pytest.raises(InputError, match='refused to run .*mkdir'):
        load_predictions(path)
