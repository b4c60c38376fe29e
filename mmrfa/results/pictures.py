"""What networks of a study say about some test images, kept for a figure."""

import io
from pathlib import Path

import numpy as np

from mmrfa.checkpoints.reading import load_predictions
from mmrfa.checkpoints.writing import write_whole
from mmrfa.errors import InputError
from mmrfa.results.queue import Job
from mmrfa.results.records import Record, slug, used_config
from mmrfa.results.statistics import difference
from mmrfa.results.studies import Study
from mmrfa.results.zoo import PLAIN

PREDICTIONS = 'pictures.pkl'  # in the work dir, of tools/test.py --out
KINDS = 'gt_sem_seg', 'pred_sem_seg'
# Beside the truth; a figure of more would show nothing.
SHOWN = PLAIN, 'RFAConv', 'RFCBAMConv', 'RFCAConv'


def picture_file(folder: Path, study: str, form: str, seed: int) -> Path:
    """Where the masks of a run are kept."""
    return folder / 'pictures' / study / f'{slug(form)}-{seed}.png'


def has_predictions(job: Job) -> bool:
    """Whether the work dir has whole predictions of all images to keep."""
    try:
        found = load_predictions(job.work_dir / PREDICTIONS)
    except InputError:
        return False
    return isinstance(found, list) and len(found) == len(job.study.pictures)


def keep_pictures(job: Job, results: Path) -> None:
    """Keep the masks of a run: truth to the left, its own to the right.

    One PNG, the images below each other, every second pixel, in the colours
    of the data set.

    Args:
        job (Job): the run, with its predictions in the work dir.
        results (Path): folder of ``runs.csv``.

    Raises:
        InputError: they are not there, or of another number of images.
    """
    from PIL import Image

    found = load_predictions(job.work_dir / PREDICTIONS)
    if len(found) != len(job.study.pictures):
        raise InputError(
            f'{job.work_dir / PREDICTIONS}: expected '
            f'{len(job.study.pictures)} images, got {len(found)}'
        )
    masks = np.vstack(
        [np.hstack([_labels(one, kind) for kind in KINDS]) for one in found]
    )
    picture = Image.fromarray(masks[::2, ::2].astype(np.uint8))
    picture.putpalette(np.uint8(_palette(job)).tobytes())
    content = io.BytesIO()
    picture.save(content, 'PNG', optimize=True)
    write_whole(content.getvalue(), picture_file(results, *job.key))


def _labels(result: dict, key: str) -> np.ndarray:
    return np.asarray(result[key]['data']).squeeze(0)


def _palette(job: Job) -> list[list[int]]:
    """Colours of the test data's classes."""
    from mmengine.registry import DATASETS, init_default_scope

    config = used_config(job.config, job.form.options)
    init_default_scope(config['default_scope'])
    dataset = config['test_dataloader']['dataset']
    known = dataset.get('metainfo') or DATASETS.get(dataset['type']).METAINFO
    return known['palette']


def median_seed(study: Study, records: list[Record]) -> int | None:
    """The seed in which RFAConv is above plain by the median, of all shown.

    Args:
        study (Study): the study.
        records (list[Record]): rows of any study.

    Returns:
        int | None: of an even number the lower one of the two in the middle;
        None where no seed has both, or the study keeps no pictures.
    """
    found = difference(records, study.name, 'RFAConv', PLAIN)
    if found is None or not study.pictures:
        return None
    order = sorted(zip(found.values, found.seeds))
    return order[(len(order) - 1) // 2][1]


def strips(
    study: Study, seed: int, records: list[Record], folder: Path
) -> dict[str, np.ndarray]:
    """Truth and predictions of a seed, each (H, W, 3), by what they are.

    Args:
        study (Study): the study.
        seed (int): of :func:`median_seed`.
        records (list[Record]): rows of any study.
        folder (Path): of the results.

    Raises:
        InputError: a picture is not there, or damaged.
    """
    from PIL import Image

    there = {
        r.form for r in records if (r.study, r.seed) == (study.name, seed)
    }
    found = {}
    for form in SHOWN:
        if form not in there:
            continue
        path = picture_file(folder, study.name, form, seed)
        try:
            both = np.asarray(Image.open(path).convert('RGB'))
        except OSError as error:
            raise InputError(
                f'{path}: expected the masks that the run left, got: {error}'
            ) from error
        truth, found[form] = np.split(both, 2, axis=1)
    return {'truth': truth, **found}
