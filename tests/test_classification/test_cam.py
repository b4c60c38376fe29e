"""Class activation maps of a classifier, against their closed form."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

FOLDER = Path(__file__).parents[2] / 'configs/imagenet'


@pytest.mark.skipif(
    find_spec('mmpretrain') is None,
    reason='needs mmpretrain; `make test-classification` has it',
)
def test_the_map_of_a_mean_and_a_product(tmp_path):
    """Behind a mean over the pixels the gradient is the class's weight."""
    from mmrfa.deploy.cam import Cam
    from mmrfa.deploy.network import network_of
    from mmrfa.deploy.predictor import Predictor
    from mmrfa.deploy.sources import Source
    from mmrfa.engine.config import load_config

    image = tmp_path / 'photo.png'
    noise = np.random.randint(0, 255, (120, 160, 3), np.uint8)
    Image.fromarray(noise).save(image)
    file = FOLDER / 'resnet18-rfa_1xb32-20e_clothing10-64x64.py'
    config = load_config(str(file))
    model = network_of(config, 'none')
    (frame,) = Source(str(image))
    cam = Cam(model, Predictor(config, model).read(frame)[1])
    assert cam.layer == 'backbone.layer4'
    assert sum(cam.found.values()) == pytest.approx(1)
    with torch.no_grad():
        features = model.backbone(cam.images)[-1]
        weight = model.head.fc.weight
        for label in 0, 9:
            wanted = (weight[label, :, None, None] * features[0]).sum(0)
            wanted = wanted.relu()[None, None]
            wanted = interpolate(wanted, cam.size, mode='bilinear')[0, 0]
            wanted /= wanted.max().clamp(min=1e-30)
            torch.testing.assert_close(
                cam.map(label, None), wanted, rtol=1e-4, atol=1e-5
            )
