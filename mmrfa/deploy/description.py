"""What an exported file says of itself, for those who run it elsewhere."""

import json
from typing import TYPE_CHECKING

import torch

from mmrfa.deploy.network import fingerprint, test_dataset
from mmrfa.deploy.parts import Part
from mmrfa.errors import InputError
from mmrfa.version import __version__

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

# Name of the entry in the file's metadata; its value is JSON.
KEY = 'mmrfa'
INPUT = 'images'


def describe(config: 'Config', model: 'nn.Module', part: Part) -> dict:
    """Say how images become the input of a program, and what comes out.

    Args:
        config (Config): of the run.
        model (nn.Module): its network.
        part (Part): what is exported of it.

    Returns:
        dict: plain values. ``task``, ``network``, ``config`` (a hash of the
        network's config), ``classes``, ``palette``, ``input`` (layout,
        channel order, mean and deviation in units of 0 to 255, size divisor,
        and the steps of the test pipeline), ``outputs`` and ``after``.
    """
    before = model.data_preprocessor
    conversion = getattr(before, '_channel_conversion', False) or getattr(
        before, 'to_rgb', False
    )
    mean, std = (
        getattr(before, name).flatten().tolist()
        if getattr(before, '_enable_normalize', False)
        else default
        for name, default in (('mean', [0.0] * 3), ('std', [1.0] * 3))
    )
    # Images are read as BGR; a conversion swaps that.
    order = 'RGB' if conversion else 'BGR'
    description = dict(
        mmrfa=__version__,
        torch=torch.__version__,
        task=part.task,
        network=type(model).__name__,
        config=model.fingerprint,
        **model.dataset_meta,
        input=dict(
            name=INPUT,
            layout='NCHW, float32; N, H and W are free',
            channels=order,
            mean=mean,
            std=std,
            normalised='(pixel - mean) / std, pixels from 0 to 255',
            size_divisor=size_divisor(model),
            pipeline=test_dataset(config).get('pipeline'),
        ),
        outputs=part.outputs,
        after=part.after,
        test_cfg=config.model.get('test_cfg'),
    )
    return json.loads(json.dumps(description, default=str))


def size_divisor(model: 'nn.Module') -> int:
    """What height and width of the input must be a multiple of."""
    before = model.data_preprocessor
    test = getattr(before, 'test_cfg', None) or {}
    divisor = test.get('size_divisor') or getattr(
        before, 'pad_size_divisor', 1
    )
    # The necks of mmyolo double sizes; its configs leave the rest to resizing.
    strides = getattr(model, 'bbox_head', None)
    strides = getattr(strides, 'featmap_strides', [1])
    return max(int(divisor or 1), *strides)


def check_same_network(description: dict, config: 'Config', path: str) -> None:
    """Make sure that a file was exported from the network of a config.

    Args:
        description (dict): of the file.
        config (Config): of the run.
        path (str): of the file, for the error message.

    Raises:
        InputError: it is of another one.
    """
    if description.get('config') != fingerprint(config):
        raise InputError(
            f'{path}: expected the network of config {config.filename}, got '
            f'{description.get("network")} of another config'
        )
