"""Results of training runs, read from the files MMEngine leaves.

A run is a folder with ``vis_data/scalars.json``, as every start of
``tools/train.py`` makes one below its work dir. Beside the scalars lies the
config it used; the work dir has the same text under the config's name.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mmrfa.errors import InputError
from mmrfa.results.zoo import processes_of

SCALARS = 'vis_data/scalars.json'
CONFIG = 'vis_data/config.py'
# What stands in a line of an evaluation beside its metrics.
NO_METRICS = {'step', 'time', 'data_time'}
# Parts of a config that decide what a run reaches.
RECIPE = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'val_dataloader',
    'val_evaluator',
    'train_cfg',
    'val_cfg',
    'sync_bn',
    'optim_wrapper',
    'param_scheduler',
    'default_hooks',
    'custom_hooks',
    'auto_scale_lr.base_batch_size',
)
# What in them belongs to the machine instead, or to what is shown and kept.
MACHINE = {
    'backend_args',
    'checkpoint',
    'data_root',
    'logger',
    'num_workers',
    'persistent_workers',
    'pin_memory',
    'prefetch_factor',
    'timer',
    'visualization',
}


class Metric(NamedTuple):
    """How MMEngine names and scales a score.

    Attributes:
        heading (str): in tables and metafiles, as OpenMMLab's have it.
        keys (tuple[str, ...]): MMEngine's names, the first found counts.
        factor (int): makes it per cent.
    """

    heading: str
    keys: tuple[str, ...]
    factor: int


METRICS = {
    'top1': Metric('Top-1', ('accuracy/top1',), 1),
    'top5': Metric('Top-5', ('accuracy/top5',), 1),
    'miou': Metric('mIoU', ('mIoU',), 1),
    'ap': Metric('box AP', ('coco/bbox_mAP', 'pascal_voc/mAP'), 100),
    'ap50': Metric('AP50', ('coco/bbox_mAP_50', 'pascal_voc/AP50'), 100),
    'ap75': Metric('AP75', ('coco/bbox_mAP_75', 'pascal_voc/AP75'), 100),
    'aps': Metric('APs', ('coco/bbox_mAP_s',), 100),
    'apm': Metric('APm', ('coco/bbox_mAP_m',), 100),
    'apl': Metric('APl', ('coco/bbox_mAP_l',), 100),
}


@dataclass(frozen=True)
class Run:
    """One finished training run.

    Attributes:
        folder (Path): holds ``vis_data``.
        config (str): name of the config, without folder and suffix.
        seed (int | None): its random seed; None where no file tells.
        metrics (dict[str, float]): of the evaluation after the last step,
            as MMEngine names and scales them. What was not a number, or -1
            (COCO's mark for "no such objects"), is left out; so is VOC's
            mean AP over other thresholds than COCO's ten.
        changes (tuple[str, ...]): settings other than those of the config
            in the zoo, one text each.
    """

    folder: Path
    config: str
    seed: int | None
    metrics: dict[str, float]
    changes: tuple[str, ...]

    def score(self, metric: str) -> float | None:
        """Look up a score.

        Args:
            metric (str): a key of ``METRICS``.

        Returns:
            float | None: in per cent; None where the run does not have it.
        """
        for key in METRICS[metric].keys:
            if key in self.metrics:
                return self.metrics[key] * METRICS[metric].factor
        return None


def collect_runs(
    folder: Path, configs: dict[str, Path]
) -> tuple[list[Run], list[str]]:
    """Find the finished runs below a folder.

    Args:
        folder (Path): a work dir, or a folder of work dirs.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        tuple[list[Run], list[str]]: runs of these configs, oldest first, and
        for every other run found a text that says why it does not count.

    Raises:
        InputError: a file of a run cannot be read.
    """
    runs, notes = [], []
    for scalars in sorted(folder.rglob(SCALARS)):
        place = scalars.parents[1]
        name = _config_name(place)
        if name is None:
            notes.append(f'{place}: the work dir holds no config of the run')
        elif name not in configs:
            notes.append(f'{place}: {name} is no config of the zoo')
        else:
            used = read_config(place / CONFIG)
            step, metrics = last_evaluation(read_scalars(scalars))
            last = length(used, place)
            if step < last:
                notes.append(
                    f'{place}: {name} is not finished, evaluated at {step} '
                    f'of {last}'
                )
                continue
            runs.append(
                Run(
                    folder=place,
                    config=name,
                    seed=_seed(used, place),
                    metrics=metrics,
                    changes=_changes(used, read_config(configs[name]))
                    + _other_processes(place, name),
                )
            )
    # Run folders are named by their time; work dirs are not.
    return sorted(runs, key=lambda run: run.folder.name), notes


def select(runs: Iterable[Run]) -> list[Run]:
    """Choose the runs that may be averaged.

    Args:
        runs (Iterable[Run]): of one config, oldest first.

    Returns:
        list[Run]: runs of one recipe, that of the zoo if there are any, else
        that of the newest run; of equal seeds the newest one.
    """
    groups = {}
    for run in runs:
        groups.setdefault(run.changes, []).append(run)
    if not groups:
        return []
    newest = max(groups.values(), key=lambda group: group[-1].folder.name)
    by_seed = {}
    for run in groups.get((), newest):
        by_seed[run.folder if run.seed is None else run.seed] = run
    return list(by_seed.values())


def _config_name(place: Path) -> str | None:
    """Name of the file in the work dir that has the text of the run."""
    copy = place / CONFIG
    if not copy.is_file():
        return None
    text = copy.read_text()
    names = [
        path.stem
        for path in sorted(place.parent.glob('*.py'))
        if path.read_text() == text
    ]
    # A later run in the same work dir has overwritten it: the only one is it.
    names = names or [path.stem for path in place.parent.glob('*.py')]
    return names[0] if len(names) == 1 else None


def read_scalars(file: Path) -> list[dict]:
    """Read MMEngine's log of losses and metrics.

    Args:
        file (Path): ``scalars.json``, a JSON object on each line.

    Returns:
        list[dict]: the lines; without the last one if it is half written,
        as the run may go on, or was killed.

    Raises:
        InputError: no file, or anything else in a line.
    """
    if not file.is_file():
        raise InputError(f'{file}: expected a file, got a folder or pipe')
    found = []
    lines = file.read_text(errors='replace').splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            if number == len(lines):
                break
            raise InputError(
                f'{file}: expected a JSON object in line {number}, got '
                f'{line[:40]!r}'
            )
        found.append(entry)
    return found


def last_evaluation(lines: list[dict]) -> tuple[int, dict[str, float]]:
    """Step and metrics of the last line that has any; step 0 if none has."""
    step, metrics = 0, {}
    for entry in lines:
        # Training lines have a loss; MMEngine gives both a time.
        if 'loss' in entry or not isinstance(entry.get('step'), int):
            continue
        found = {
            key: float(value)
            for key, value in entry.items()
            if key not in NO_METRICS and isinstance(value, int | float)
        }
        if found:
            step = entry['step']
            metrics = {
                key: value
                for key, value in found.items()
                if math.isfinite(value) and value != -1
            }
    if 'pascal_voc/AP95' not in metrics:  # a mean over fewer thresholds
        metrics.pop('pascal_voc/mAP', None)
    return step, metrics


def length(used: dict, place: Path) -> int:
    """Epochs or iterations that a run is to take."""
    plan = used.get('train_cfg') or {}
    length = plan.get('max_epochs') or plan.get('max_iters')
    if not isinstance(length, int):
        raise InputError(
            f'{place}: expected train_cfg with max_epochs '
            'or max_iters, found none'
        )
    return length


def _other_processes(place: Path, name: str) -> tuple[str, ...]:
    """Of another number the images of a step are more, or fewer."""
    found = _logged(place, 'GPU number')
    if found in (None, processes_of(name)):
        return ()
    return (f'{found} processes instead of {processes_of(name)}',)


def _seed(used: dict, place: Path) -> int | None:
    """The seed of the config; else the one MMEngine drew and logged."""
    seed = (used.get('randomness') or {}).get('seed')
    return _logged(place, 'seed') if seed is None else seed


def _logged(place: Path, name: str) -> int | None:
    """A number of the environment that MMEngine logs in front of a run."""
    for log in sorted(place.glob('*.log')):
        text = log.read_text(errors='replace')
        found = re.search(rf'^ +{name}: (\d+)$', text, re.MULTILINE)
        if found:
            return int(found[1])
    return None


@cache
def read_config(path: Path) -> dict:
    """Read a config without importing what it needs.

    Args:
        path (Path): the file.

    Returns:
        dict: its content, not to be changed: the next caller gets it too.

    Raises:
        InputError: not a config.
    """
    from mmengine.config import Config

    try:
        config = Config.fromfile(path, import_custom_modules=False)
    except Exception as error:  # a config is a program, it can raise anything
        raise InputError(f'{path}: cannot be read: {error}') from error
    return config.to_dict()


def _changes(used: dict, ours: dict) -> tuple[str, ...]:
    """Settings of the recipe in which two configs differ."""
    a, b = recipe(used), recipe(ours)
    for leaves, config in ((a, used), (b, ours)):
        # A checkpoint given to --resume stands there too; what it was
        # trained from, it does not tell.
        if config.get('load_from') and config.get('resume') is not True:
            leaves['load_from'] = config['load_from']
    return tuple(
        f'{key} {a.get(key, "(none)")} instead of {b.get(key, "(none)")}'
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key)
    )


def recipe(config: dict) -> dict[str, object]:
    """Leaves of what decides what a run reaches, by dotted key."""
    found, roots = {}, _roots(config)

    def walk(node: object, key: str) -> None:
        if isinstance(node, dict) and node:
            for name, child in node.items():
                if name == 'ann_file' and isinstance(child, str):
                    child = _below(roots, child)
                if name not in MACHINE:
                    walk(child, f'{key}.{name}')
        elif isinstance(node, list | tuple) and node:
            for index, child in enumerate(node):
                walk(child, f'{key}.{index}')
        else:
            # () and [] are the same to us, and come back as one of them
            found[key] = list(node) if isinstance(node, tuple) else node

    for name in RECIPE:
        node = config
        for part in name.split('.'):
            node = (node or {}).get(part)
        if node is not None:
            walk(node, name)
    return found


def _roots(node: object) -> set[str]:
    """All folders of data that a config names."""
    if isinstance(node, list | tuple):
        return set().union(*map(_roots, node))
    if not isinstance(node, dict):
        return set()
    found = node.get('data_root')
    own = {found} if isinstance(found, str) and found else set()
    return own.union(*map(_roots, node.values()))


def _below(roots: set[str], file: str) -> str:
    """A file without the folder of its data, where that begins its name."""
    begins = [f'{root.rstrip("/")}/' for root in roots]
    inner = [file.removeprefix(begin) for begin in begins]
    return min(inner, key=len, default=file)
