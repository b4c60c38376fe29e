"""From the work dir of a run to its row."""

import hashlib
import json
from datetime import date
from functools import cache
from pathlib import Path
from statistics import median

from mmrfa.errors import InputError
from mmrfa.results.costs import count, network
from mmrfa.results.origin import commit, device, versions
from mmrfa.results.pictures import keep_pictures
from mmrfa.results.queue import Cost, Job, Place
from mmrfa.results.records import (
    Record,
    add_record,
    digest,
    scalars_file,
    scores_of,
    used_config,
    write_scalars,
)
from mmrfa.results.runs import (
    CONFIG,
    METRICS,
    SCALARS,
    last_evaluation,
    length,
    read_config,
    read_scalars,
)

TEST = 'test'  # folder of the last scoring, below the work dir


def logged(folder: Path) -> list[dict]:
    """Scalars of a run over all its starts, each step once.

    Args:
        folder (Path): its work dir.

    Returns:
        list[dict]: lines as MMEngine wrote them. Where a start went back to
        a checkpoint, what it logged again stands for what was there.
    """
    lines = {}
    for path in sorted(folder.glob(f'*/{SCALARS}')):
        for line in read_scalars(path):
            lines['loss' in line, line.get('step')] = line
    return [*lines.values()]


def trained(job: Job) -> bool:
    """Whether the run was evaluated after its last step."""
    used = used_config(job.config, job.form.options)
    step, metrics = last_evaluation(logged(job.work_dir))
    return bool(metrics) and step >= length(used, job.config)


def check_recipe(job: Job) -> None:
    """Make sure that what lies in a work dir is a run of the job's recipe.

    Args:
        job (Job): the run.

    Raises:
        InputError: it was started with another one.
    """
    wanted = digest(used_config(job.config, job.form.options))
    for path in sorted(job.work_dir.glob(f'*/{CONFIG}')):
        if digest(read_config(path)) != wanted:
            raise InputError(
                f'{job.work_dir}: expected a run of the recipe of '
                f'{job.form.config} as it is, got one of another in '
                f'{path.parents[1].name}; remove the folder to train it again'
            )


def last_checkpoint(folder: Path) -> Path:
    """The checkpoint that ``last_checkpoint`` names, wherever it was moved.

    Raises:
        InputError: there is none.
    """
    try:
        name = Path((folder / 'last_checkpoint').read_text().strip()).name
    except OSError:
        name = None
    if name is None or not (folder / name).is_file():
        raise InputError(
            f'{folder}: expected the checkpoint of its last step, found none'
        )
    return folder / name


def tested(folder: Path) -> dict | None:
    """Scores that the newest test left below a work dir, if any."""
    found = sorted((folder / TEST).glob('*/*.json'))
    lines = read_scalars(found[-1]) if found else []
    # without the step that lines of training have
    return last_evaluation([{**line, 'step': 0} for line in lines])[1] or None


def finish(job: Job, cost: Cost, place: Place, results: Path) -> Record:
    """Make the row of a run that is done, and keep it and its scalars.

    Args:
        job (Job): the run.
        cost (Cost): what it took.
        place (Place): what it ran on.
        results (Path): folder of ``runs.csv``.

    Returns:
        Record: the row.

    Raises:
        InputError: the run left no scores or no checkpoint.
    """
    lines = logged(job.work_dir)
    test = tested(job.work_dir) if job.study.scored == TEST else None
    if test:
        lines.append({TEST: test})
    val, score = scores_of(lines, job.study.metric)
    wanted = METRICS[job.study.metric].keys[0]
    if not trained(job) or val is None:
        raise InputError(
            f'{job.work_dir}: expected {wanted} after the last step, got none'
        )
    if job.study.scored == TEST and score is None:
        raise InputError(
            f'{job.work_dir / TEST}: expected {wanted} of the test split, '
            'got none'
        )
    steps = [line for line in lines if 'loss' in line]
    trained_steps = max(line.get('iter', line['step']) for line in steps)
    step_seconds = median(line['time'] for line in steps)
    options = dict(job.form.options)
    params, operations = cost_of(
        job.config, json.dumps(options), job.study.size
    )
    on_gpu = [line['memory'] for line in steps if 'memory' in line]
    record = Record(
        study=job.study.name,
        form=job.form.name,
        seed=job.seed,
        metric=job.study.metric,
        val=round(val, 4),
        test=None if score is None else round(score, 4),
        steps=trained_steps,
        step_seconds=round(step_seconds, 4),
        # Of a run that outlived its queue the cost is not all there is.
        seconds=round(max(cost.seconds, trained_steps * step_seconds), 1),
        peak_mb=round(max(on_gpu) if on_gpu else cost.peak_mb, 1),
        params=params,
        gflops=round(operations / 1e9, 4),
        date=str(date.today()),
        cpu=device(),
        threads=place.threads,
        versions=versions(),
        commit=' '.join(cost.commits) or commit(),
        config=job.form.config,
        options=json.dumps(options),
        recipe=digest(used_config(job.config, options)),
        checkpoint=sha256(last_checkpoint(job.work_dir)),
    )
    if job.study.pictures:
        keep_pictures(job, results)
    write_scalars(scalars_file(results, *job.key), lines)
    add_record(results, record)
    return record


@cache
def cost_of(
    config: Path, options: str, size: tuple[int, int]
) -> tuple[int, float]:
    """Parameters and multiply-adds of the network of a config."""
    return count(network(config, json.loads(options)), (3, *size))


def sha256(path: Path) -> str:
    """Digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
