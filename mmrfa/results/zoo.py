"""What the names of the zoo say: operators, networks, data sets."""

import re
from dataclasses import dataclass
from pathlib import Path

from mmrfa.layers import OPERATORS

PLAIN = 'plain'
# How an operator is written in the names of configs.
TAGS = {
    operator.__name__: operator.__name__.removesuffix('Conv').lower()
    for operator in OPERATORS
}
SIZES = ('n', 'tiny', 's')
SEGMENTATION = 'Semantic Segmentation'
DETECTION = 'Object Detection'
CLASSIFICATION = 'Classification'


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        title (str): its name.
        task (str): as OpenMMLab's metafiles have it.
        metrics (tuple[str, ...]): keys of ``runs.METRICS`` to report.
    """

    title: str
    task: str
    metrics: tuple[str, ...]


DATA = {
    'voc12aug': Data('PASCAL VOC 2012 + aug', SEGMENTATION, ('miou',)),
    'camvid': Data('CamVid (val)', SEGMENTATION, ('miou',)),
    'camvidhalf': Data('CamVid at half size (val)', SEGMENTATION, ('miou',)),
    'coco': Data('COCO 2017', DETECTION, ('ap',)),
    'voc0712': Data('VOC 2007+2012', DETECTION, ('ap50',)),
    'bccd': Data('BCCD (val)', DETECTION, ('ap',)),
    'in1k': Data('ImageNet-1k', CLASSIFICATION, ('top1', 'top5')),
    'clothing10': Data('clothing10 (val)', CLASSIFICATION, ('top1',)),
}


@dataclass(frozen=True)
class Entry:
    """A config of the zoo, as its name describes it.

    Attributes:
        path (Path): the file.
        backbone (str): without operator, such as R18-D16.
        conv (str): an operator or 'plain'.
        schedule (str): GPUs, batch and length, or OpenMMLab's 1x.
        data (str): a key of ``DATA``.
        order (tuple): by data, size, stride and operator.
    """

    path: Path
    backbone: str
    conv: str
    schedule: str
    data: str
    order: tuple


def processes_of(name: str) -> int:
    """How many processes a recipe wants, by the name of its config."""
    named = re.search(r'_(\d+)xb\d+', name)
    if named:
        return int(named[1])
    return 8 if re.search(r'_\d+x_', name) else 1  # OpenMMLab's 1x


def config_files(repository: Path) -> dict[str, Path]:
    """Find the configs of the zoo.

    Args:
        repository (Path): a clone of mmrfa.

    Returns:
        dict[str, Path]: files by name without suffix.
    """
    return {
        path.stem: path
        for path in sorted(repository.glob('configs/*/*.py'))
        if path.parent.name != '_base_'
    }


def variant(pattern: str, conv: str) -> str:
    """Fill an operator into the name of a config.

    Args:
        pattern (str): ``{}`` stands where the operator goes.
        conv (str): a key of ``TAGS`` or 'plain'.

    Returns:
        str: the name.
    """
    return pattern.format('' if conv == PLAIN else f'-{TAGS[conv]}')


def read_name(path: Path) -> Entry:
    """Take the name of a config apart.

    Args:
        path (Path): ALGORITHM_NET[-OPERATOR][-STRIDE][_NECK]_SCHEDULE_DATA;
            without algorithm if that is the net.

    Returns:
        Entry: its parts.
    """
    parts = path.stem.split('_')
    net, *rest = parts[0 if len(parts) == 3 else 1].split('-')
    conv = next((conv for conv, tag in TAGS.items() if tag in rest), PLAIN)
    stride = [part for part in rest if re.fullmatch(r'd\d+', part)]
    schedule, data = parts[-2], parts[-1].partition('-')[0]
    size = re.search(r'\d*$', net)[0]
    order = (
        [*DATA].index(data),
        int(size) if size else SIZES.index(net),
        stride,
        [PLAIN, *TAGS].index(conv),
    )
    name = '-'.join([net.replace('resnet', 'r'), *stride]).upper()
    return Entry(path, name, conv, schedule, data, order)
