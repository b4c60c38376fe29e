"""Write the metafiles, the tables of the zoo's READMEs and model-index.yml.

    update_zoo.py           write them; needs detection (`make ops`)

What they say comes from the configs and from runs committed below ``logs/``,
which are work dirs without checkpoints: the text of the config, the scalars
and the log. A result without such a run is a dash. A README says where its
tables go, one for each data set, by ``<!-- table: DATA -->`` and
``<!-- end of table -->``.
"""

import re
import sys
from pathlib import Path
from statistics import mean, stdev

import yaml

from mmrfa.utils.cli import run_tool
from mmrfa.utils.config import import_scope, load_config
from mmrfa.utils.flops import Classifier
from mmrfa.utils.run import build_model
from mmrfa.utils.runs import Run, collect_runs, read_config, select

REPO = Path(__file__).resolve().parents[1]
LOGS = REPO / 'logs'
# Collection of a folder: name, paper's title and address.
COLLECTIONS = {
    'deeplabv3plus': (
        'DeepLabV3+',
        'Encoder-Decoder with Atrous Separable Convolution for Semantic '
        'Image Segmentation',
        'https://arxiv.org/abs/1802.02611',
    ),
    'deeplabv3': (
        'DeepLabV3',
        'Rethinking Atrous Convolution for Semantic Image Segmentation',
        'https://arxiv.org/abs/1706.05587',
    ),
    'fcn': (
        'FCN',
        'Fully Convolutional Networks for Semantic Segmentation',
        'https://arxiv.org/abs/1411.4038',
    ),
    'faster_rcnn': (
        'Faster R-CNN',
        'Faster R-CNN: Towards Real-Time Object Detection with Region '
        'Proposal Networks',
        'https://arxiv.org/abs/1506.01497',
    ),
    'imagenet': (
        'RFA-ResNet',
        'RFAConv: Innovating Spatial Attention and Standard Convolutional '
        'Operation',
        'https://arxiv.org/abs/2304.03198',
    ),
    'yolox': (
        'YOLOX',
        'YOLOX: Exceeding YOLO Series in 2021',
        'https://arxiv.org/abs/2107.08430',
    ),
}
SEG, DET, CLS = 'Semantic Segmentation', 'Object Detection', 'Classification'
# Data sets: title, task, and by heading MMEngine's name of a metric and the
# factor that makes it per cent.
DATA = {
    'voc12aug': ('PASCAL VOC 2012 + aug', SEG, {'mIoU': ('mIoU', 1)}),
    'camvid': ('CamVid (val)', SEG, {'mIoU': ('mIoU', 1)}),
    'coco': ('COCO 2017', DET, {'box AP': ('coco/bbox_mAP', 100)}),
    'voc0712': ('VOC 2007+2012', DET, {'AP50': ('pascal_voc/AP50', 100)}),
    'bccd': ('BCCD (val)', DET, {'box AP': ('coco/bbox_mAP', 100)}),
    'in1k': (
        'ImageNet-1k',
        CLS,
        {'Top-1': ('accuracy/top1', 1), 'Top-5': ('accuracy/top5', 1)},
    ),
    'clothing10': ('clothing10 (val)', CLS, {'Top-1': ('accuracy/top1', 1)}),
}
OPERATORS = (None, 'cam', 'cbam', 'ca', 'rfa', 'rfcbam', 'rfca', 'aw')
NAME = re.compile(
    r'(?P<net>resnet\d+|\w+?_(?:r\d+|nano|tiny|s)|faster-rcnn_r\d+)'
    r'(?:-(?!d\d)(?P<op>[a-z]+))?(?:-(?P<stride>d\d+))?(?:_fpn)?'
    r'_(?P<schedule>1x|\d+xb\d+-\d+[ke])_(?P<data>[a-z0-9]+)(?:-\d+x\d+)?'
)
WARNING = '# Written by scripts/update_zoo.py; do not edit.\n'


def main() -> None:
    """Write all files."""
    files = {}
    for folder in COLLECTIONS:
        params = {
            path.stem: count_parameters(path) for path in configs(folder)
        }
        files |= render(folder, params, read_runs())
    files[REPO / 'model-index.yml'] = index()
    for path, text in files.items():
        path.write_text(text, encoding='utf-8')


def configs(folder: str) -> list[Path]:
    """Config files of a folder of the zoo: small to large, plain first."""

    def place(path: Path) -> tuple:
        part = NAME.fullmatch(path.stem).groupdict()
        size = re.search(r'\d+$|nano|tiny|s$', part['net'])[0]
        rank = dict(nano=1, tiny=2, s=3).get(size) or int(size)
        operator = OPERATORS.index(part['op'])
        stride = part['stride'] or ''
        return [*DATA].index(part['data']), rank, stride, operator

    return sorted((REPO / 'configs' / folder).glob('*.py'), key=place)


def count_parameters(path: Path) -> int:
    """Build the model of a config and count its parameters."""
    config = load_config(str(path))
    if config.get('default_scope') == 'mmpretrain':  # need not be installed
        from mmengine.registry import MODELS

        backbone = MODELS.build(config.model.backbone)
        model = Classifier(backbone, config.model.head.num_classes)
    else:
        import_scope(config)
        model = build_model(config)
    return sum(parameter.numel() for parameter in model.parameters())


def read_runs() -> list[Run]:
    """Committed runs that kept to the recipe of their config."""
    files = {p.stem: p for folder in COLLECTIONS for p in configs(folder)}
    runs = collect_runs(LOGS, files)[0] if LOGS.is_dir() else []
    return [run for run in runs if not run.changes]


def index() -> str:
    """Text of ``model-index.yml``."""
    paths = [f'configs/{folder}/metafile.yml' for folder in COLLECTIONS]
    return WARNING + dump({'Import': paths})


def render(
    folder: str, params: dict[str, int], runs: list[Run]
) -> dict[Path, str]:
    """Make the files of a folder.

    Args:
        folder (str): below ``configs``.
        params (dict[str, int]): number of parameters by config.
        runs (list[Run]): that may back a result.

    Returns:
        dict[Path, str]: text of the metafile, and of the README if it is to
        change.
    """
    name, paper, url = COLLECTIONS[folder]
    place = REPO / 'configs' / folder
    models, tables = [], {}
    for path in configs(folder):
        part = NAME.fullmatch(path.stem).groupdict()
        config = read_config(path)
        mine = select(run for run in runs if run.config == path.stem)
        title, task, metrics = DATA[part['data']]
        found = {
            heading: [
                run.metrics[key] * factor for run in mine if key in run.metrics
            ]
            for heading, (key, factor) in metrics.items()
        }
        plan = config['train_cfg']
        conv = config['model']['backbone'].get('attention_conv', {})
        length = {
            'Epochs': plan.get('max_epochs'),
            'Iterations': plan.get('max_iters'),
        }
        model = {
            'Name': path.stem,
            'In Collection': name,
            'Config': path.relative_to(REPO).as_posix(),
            'Metadata': {
                'Training Data': title.removesuffix(' (val)'),
                'Batch Size': config['auto_scale_lr']['base_batch_size'],
                **{key: value for key, value in length.items() if value},
                'Parameters': params[path.stem],
                'Architecture': [name, conv.get('type', 'plain')],
            },
        }
        if any(found.values()):
            scores = {k: round(mean(v), 2) for k, v in found.items() if v}
            model['Results'] = [
                {'Task': task, 'Dataset': title, 'Metrics': scores}
            ]
        models.append(model)
        seeds = ', '.join(str(run.seed) for run in mine) or '-'
        cells = [
            backbone(part),
            conv.get('type', 'plain'),
            part['schedule'],
            f'{params[path.stem] / 1e6:.3f}',
            *map(cell, found.values()),
            seeds,
            f'[config]({path.name})',
        ]
        heads = ['Backbone', 'Conv', 'Schedule', 'Params (M)', *found]
        heads += ['Seeds', 'Config']
        table = tables.setdefault(part['data'], [heads, ['---'] * len(heads)])
        table.append(cells)
    collection = {
        'Name': name,
        'Paper': {'Title': paper, 'URL': url},
        'README': f'configs/{folder}/README.md',
        'Metadata': {'Training Data': sorted({
            m['Metadata']['Training Data'] for m in models
        })},
    }  # fmt: skip
    metafile = dump({'Collections': [collection], 'Models': models})
    files = {place / 'metafile.yml': WARNING + metafile}
    readme = place / 'README.md'
    text = old = readme.read_text(encoding='utf-8')
    for data, lines in tables.items():
        body = ''.join(f'| {" | ".join(line)} |\n' for line in lines)
        text = re.sub(
            rf'(<!-- table: {data} -->\n).*?(<!-- end of table -->)',
            lambda match, body=body: f'{match[1]}\n{body}\n{match[2]}',
            text,
            flags=re.DOTALL,
        )
    if text != old:
        files[readme] = text
    return files


def backbone(part: dict[str, str | None]) -> str:
    """Name of the network without operator, as the tables have it."""
    short = part['net'].rpartition('_')[2].replace('resnet', 'R').upper()
    return '-'.join(filter(None, (short, (part['stride'] or '').upper())))


def cell(values: list[float]) -> str:
    """Mean and spread of some seeds, or a dash."""
    if not values:
        return '-'
    spread = f' ± {stdev(values):.2f}' if len(values) > 1 else ''
    return f'{mean(values):.2f}{spread}'


def dump(content: dict) -> str:
    """YAML in the order given."""
    return yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, width=1000
    )


if __name__ == '__main__':
    sys.exit(run_tool(main))
