"""Train studies, or the papers' tables: every form with every seed.

    python tools/train_study.py camvid --jobs 2 --threads 1
    python tools/train_study.py camvid --gpus 1 --jobs 12
    python tools/train_study.py voc12_segmentation --gpus 8

Several runs at a time, seed by seed, all forms of each. Finished runs, which
have a row in RESULTS/runs.csv, are skipped; what was cut goes on from its
newest checkpoint. Ctrl-C lets the runs finish their step and save; the same
command goes on. Where a study says so, the network of the last step is scored
on the test split, once.
"""

import argparse
import os
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

try:
    from mmrfa.checkpoints.writing import check_folder
    from mmrfa.engine.cli import add_cfg_options, parse_args, run_tool
    from mmrfa.engine.lock import lock_work_dir
    from mmrfa.errors import InputError
    from mmrfa.openmmlab import import_package
except ModuleNotFoundError as error:
    sys.exit(f'error: {error}; install mmrfa (README.md), or use .venv/bin')

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(__file__).resolve().parent


def main(argv: list[str] | None = None) -> int:
    """Run the tool.

    Args:
        argv (list[str] | None): arguments; None reads the command line.

    Returns:
        int: 0, 1 where runs failed, 128 and its number after a signal.
    """
    import_package('mmengine.logging')
    from mmengine.logging import MMLogger

    from mmrfa.results.queue import Queue, by_seeds
    from mmrfa.results.studies import find_study, study_names
    from mmrfa.results.zoo import config_files

    # MMEngine logs the use of MMRFA_DATA_ROOT once per config.
    MMLogger.get_current_instance().setLevel('WARNING')
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'studies',
        nargs='+',
        metavar='STUDY',
        help=f'out of {", ".join(study_names())}',
    )
    parser.add_argument(
        '--seeds',
        type=int,
        metavar='N',
        help='seeds of every form, 0 to N - 1 (default: as the study says)',
    )
    parser.add_argument(
        '--forms',
        nargs='+',
        metavar='FORM',
        help='only these forms (default: all)',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='runs at a time, with --gpus on each GPU (default: 1)',
    )
    parser.add_argument(
        '--threads',
        type=int,
        help='cores for each (default: all, shared out)',
    )
    parser.add_argument(
        '--gpus',
        type=int,
        default=0,
        metavar='N',
        help='use GPUs 0 to N - 1: a run takes as many as its recipe wants',
    )
    parser.add_argument(
        '--work-dir',
        default='work_dirs/studies',
        metavar='FOLDER',
        help='for logs and checkpoints (default: work_dirs/studies)',
    )
    parser.add_argument(
        '--results',
        type=Path,
        default=Path('results'),
        metavar='FOLDER',
        help='for runs.csv and scalars (default: results)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='for every run, of the machine only and not of its recipe, such '
        'as train_dataloader.num_workers=4',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='print what would be trained, and how',
    )
    args = parse_args(parser, argv)
    for name in ('jobs', 'seeds', 'threads'):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f'--{name}: expected at least 1, got {value}')
    if args.gpus < 0:
        raise InputError(f'--gpus: expected 0 or more, got {args.gpus}')
    for folder in (args.work_dir, args.results):
        check_folder(Path(folder))
    configs = config_files(ROOT)
    names = dict.fromkeys(args.studies)
    studies = [find_study(name, configs) for name in names]
    jobs = by_seeds(
        [job for study in studies for job in jobs_of(study, args, configs)]
    )
    following = partial(next_command, options=args.cfg_options)
    if args.dry_run:
        titles = {job.key: job.title for job in jobs}
        for job in jobs:
            print(f'# {job.title}')
            if job.after in titles:
                print(f'# waits for {titles[job.after]}')
            else:
                print(shlex.join(following(job) or []))
        return 0
    places = places_of(args.gpus, args.jobs, args.threads)
    lock_work_dir(args.work_dir)
    from mmrfa.results.finishing import finish

    keep = partial(finish, results=args.results)
    return Queue(jobs, following, keep, places).run()


def places_of(gpus: int, jobs: int, threads: int | None) -> list:
    """What runs are shared out to.

    Args:
        gpus (int): how many GPUs there are to use, 0 for none.
        jobs (int): runs at a time, on each GPU if there are any.
        threads (int | None): of a run; None shares all cores out.

    Returns:
        list[Place]: GPU after GPU, and again.
    """
    from mmrfa.results.queue import Place

    seen = [(gpu,) for gpu in range(gpus)] or [()]
    threads = threads or (os.cpu_count() or 1) // (len(seen) * jobs) or 1
    return [Place(threads, each) for each in seen * jobs]


def jobs_of(study, args: argparse.Namespace, configs: dict[str, Path]) -> list:
    """The runs of a study that have no row yet.

    Args:
        study (Study): the study.
        args (Namespace): of the command line.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        list[Job]: form by form.

    Raises:
        InputError: an unknown form, a recipe that wants more processes than
            there are, options that change one, or rows of another.
    """
    from mmrfa.results.queue import Job, work_dir
    from mmrfa.results.records import (
        TABLE,
        digest,
        read_records,
        used_config,
    )
    from mmrfa.results.zoo import processes_of

    known = list(study.forms)
    wanted = args.forms or known
    if not set(wanted) <= set(known):
        raise InputError(
            f'--forms: expected some of {"; ".join(known)} in {study.name}, '
            f'got {"; ".join(sorted(set(wanted) - set(known)))}'
        )
    done = {record.key: record for record in read_records(args.results)}
    given = read_options(args.cfg_options)
    jobs = []
    for name in dict.fromkeys(wanted):
        form = study.forms[name]
        config = configs[form.config]
        processes = processes_of(form.config)
        if processes > max(1, args.gpus) and not args.dry_run:
            raise InputError(
                f'--gpus: expected at least {processes}, as config '
                f'{form.config} wants, got {args.gpus}'
            )
        if processes > 1 and args.gpus and args.jobs > 1:
            raise InputError(
                f'--jobs: expected 1, as config {form.config} wants '
                f'{processes} GPUs for itself, got {args.jobs}'
            )
        recipe = digest(used_config(config, form.options))
        if recipe != digest(used_config(config, form.options | given)):
            raise InputError(
                '--cfg-options: expected settings of the machine, got some '
                f'that change the recipe of {form.config}'
            )
        for seed in range(args.seeds or form.seeds):
            record = done.get((study.name, name, seed))
            if record is None:
                folder = work_dir(Path(args.work_dir), study.name, name, seed)
                jobs.append(Job(study, form, seed, config, processes, folder))
            elif record.recipe != recipe:
                raise InputError(
                    f'{args.results / TABLE}: expected runs of the recipe of '
                    f'{form.config} as it is, got another one for '
                    f'{study.name}, {name}, seed {seed}; remove the rows of '
                    'the study and its work dir to train it again'
                )
    return jobs


def read_options(pieces: list[str]) -> dict:
    """Pieces of ``--cfg-options`` as entries of a config."""
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    words = ['--cfg-options', *pieces] if pieces else []
    return parse_args(parser, words).cfg_options or {}


def next_command(job, options: list[str]) -> list[str] | None:
    """What a run is to do next, by what lies in its work dir.

    Args:
        job (Job): the run.
        options (list[str]): further pieces of ``--cfg-options``.

    Returns:
        list[str] | None: to train or to test; None once it is done.

    Raises:
        InputError: what lies there is of another recipe, or what it starts
            as has not been trained.
    """
    from mmrfa.results.finishing import (
        TEST,
        check_recipe,
        last_checkpoint,
        tested,
        trained,
    )
    from mmrfa.results.pictures import PREDICTIONS, has_predictions

    settings = [f'{key}={value}' for key, value in job.form.options.items()]
    settings += [*options, f'randomness.seed={job.seed}']
    check_recipe(job)
    if not trained(job):
        words = [TOOLS / 'train.py', job.config, '--work-dir', job.work_dir]
        if (job.work_dir / 'last_checkpoint').exists():
            words.insert(1, '--resume=auto')
        elif job.after:
            start, convert = start_of(job)
            if convert:
                return [*convert, '--cfg-options', *settings]
            settings.append(f'load_from={start}')
        if job.processes > 1:
            words = ['-m', 'torch.distributed.run', '--standalone'] + [
                f'--nproc_per_node={job.processes}',
                *words,
                '--launcher=pytorch',
            ]
    elif job.study.scored == TEST and tested(job.work_dir) is None:
        checkpoint = last_checkpoint(job.work_dir)
        words = [TOOLS / 'test.py', job.config, checkpoint]
        words += ['--work-dir', job.work_dir / TEST]
    elif job.study.pictures and not has_predictions(job):
        words = [TOOLS / 'test.py', job.config, last_checkpoint(job.work_dir)]
        words += ['--work-dir', job.work_dir / 'pictures']
        words += ['--out', job.work_dir / PREDICTIONS]
        places = ','.join(map(str, job.study.pictures))
        settings.append(f'test_dataloader.dataset.indices=[{places}]')
    else:
        return None
    words = [sys.executable, *words, '--cfg-options', *settings]
    return [str(word) for word in words]


def start_of(job) -> tuple[Path, list[str] | None]:
    """The checkpoint that a run of a study with ``start_from`` starts as.

    Args:
        job (Job): the run.

    Returns:
        tuple[Path, list[str] | None]: that of the plain network, or of its
        conversion, and the command that converts, None where that was done.

    Raises:
        InputError: the plain network has not been trained.
    """
    from mmrfa.results.finishing import last_checkpoint, trained
    from mmrfa.results.queue import work_dir
    from mmrfa.results.records import used_config
    from mmrfa.results.studies import find_study
    from mmrfa.results.zoo import config_files

    name, form, _ = job.after
    configs = config_files(ROOT)
    study = find_study(name, configs)
    first = replace(
        job,
        study=study,
        form=study.forms[form],
        config=configs[study.forms[form].config],
        work_dir=work_dir(job.work_dir.parents[2], *job.after),
    )
    if not trained(first):
        raise InputError(
            f'{first.work_dir}: expected a network that was trained to the '
            'end, to start as it, found none'
        )
    plain = last_checkpoint(first.work_dir)
    backbone = used_config(job.config, job.form.options)['model']['backbone']
    if 'attention_conv' not in backbone:
        return plain, None
    target = job.work_dir / 'start.pth'
    words = [
        TOOLS / 'model_converters/resnet_to_rfa.py',
        plain,
        target,
        f'--depth={backbone["depth"]}',
        f'--attention-conv={backbone["attention_conv"]["type"]}',
        f'--calibrate={job.config}',
        '--whole',
    ]
    if target.exists() and target.stat().st_mtime > plain.stat().st_mtime:
        return target, None
    return target, [sys.executable, *map(str, words)]


if __name__ == '__main__':
    sys.exit(run_tool(main))
