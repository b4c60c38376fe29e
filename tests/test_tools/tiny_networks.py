"""Networks that cost nothing, with random weights, to predict and export."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from .tool_calls import TINY_SEG, forget_instances

SEG = TINY_SEG.with_name('tinier_seg.py')
YOLOX = TINY_SEG.with_name('tiny_yolox.py')
operators = pytest.mark.usefixtures('mmcv_operators')


def options_of(arguments: list[str]) -> dict:
    """What ``--cfg-options KEY=VALUE ...`` stands for."""
    from mmengine.config import DictAction

    pairs = (text.split('=', 1) for text in arguments[1:])
    return {key: DictAction._parse_iterable(text) for key, text in pairs}


def save_random(path: Path, config: Path) -> Path:
    """A checkpoint of random weights, with running statistics to fold."""
    from mmrfa.deploy.network import build_network
    from mmrfa.engine.config import load_config

    forget_instances()
    torch.manual_seed(0)
    model = build_network(load_config(str(config)))
    for name, buffer in model.named_buffers():
        if name.endswith('running_var'):
            buffer.uniform_(0.5, 2)
        elif name.endswith('running_mean'):
            buffer.uniform_(-0.2, 0.2)
    for name, weight in model.named_parameters():
        if name.endswith('conv_seg.weight'):  # else one class is everywhere
            torch.nn.init.normal_(weight)
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


def masks_of(out):
    return {
        path.name: np.asarray(Image.open(path))
        for path in sorted((out / 'masks').iterdir())
    }
