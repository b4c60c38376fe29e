"""The queue: order, places, failures, stops; on runs of a moment."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_tools.tool_calls import load_tool

from mmrfa.engine.cli import run_tool
from mmrfa.errors import InputError
from mmrfa.results.queue import (
    Cost,
    Job,
    Place,
    Queue,
    by_seeds,
    clock,
    work_dir,
)
from mmrfa.results.records import used_config
from mmrfa.results.runs import METRICS
from mmrfa.results.studies import Form, Study, find_study, study_names

from .crafted_runs import CONFIGS, craft
from .rows import row


def make_jobs(folder: Path, forms: list[str], seeds: int, processes=1):
    """Jobs of a study that is none of ours."""
    study = Study('tiny', 'Tiny', 'miou', 'val', (8, 8))
    return [
        Job(
            study,
            Form(form, 'config', {}, seeds),
            seed,
            folder / 'config.py',
            processes,
            work_dir(folder, 'tiny', form, seed),
        )
        for form in forms
        for seed in range(seeds)
    ]


class Runs:
    """Runs that leave a file, and the queue's view of them."""

    def __init__(self, programs: dict[str, str] | None = None) -> None:
        self.programs = programs or {}
        self.finished, self.lines, self.places = [], [], []

    def following(self, job: Job) -> list[str] | None:
        if (job.work_dir / 'done').exists():
            return None
        program = self.programs.get(job.form.name, "open('done', 'w')")
        text = f'import os; os.chdir({str(job.work_dir)!r}); {program}'
        return [sys.executable, '-c', text]

    def finish(self, job: Job, cost: Cost, place: Place):
        self.finished.append((job.form.name, job.seed))
        self.places.append(place)
        assert cost.seconds > 0
        return row(form=job.form.name, seed=job.seed)

    def queue(self, jobs: list[Job], places: list[Place]) -> Queue:
        return Queue(
            by_seeds(jobs),
            self.following,
            self.finish,
            places,
            self.lines.append,
            every=0.2,
        )


def test_seed_by_seed(tmp_path):
    jobs = make_jobs(tmp_path, ['plain', 'RFAConv'], 2)
    runs = Runs()
    assert runs.queue(jobs, [Place(1)]).run() == 0
    assert runs.finished == [
        ('plain', 0),
        ('RFAConv', 0),
        ('plain', 1),
        ('RFAConv', 1),
    ]
    assert runs.lines[-1].startswith('[4/4] tiny: RFAConv, seed 1: miou 30.00')
    assert any('left' in line for line in runs.lines)


def test_a_run_waits_for_the_one_it_starts_as(tmp_path):
    first = make_jobs(tmp_path, ['plain', 'RFAConv'], 2)
    tuned = Study('tuned', 'T', 'miou', 'val', (8, 8), start_from='tiny')
    jobs = [replace(job, study=tuned) for job in first] + first
    runs = Runs({'plain': 'import time; time.sleep(0.3); open("done", "w")'})
    for job in jobs:
        job.work_dir.mkdir(parents=True, exist_ok=True)
    assert runs.queue(jobs, [Place(1)] * 4).run() == 0
    started = [line for line in runs.lines if line.startswith('started')]
    assert len(started) == 8
    for seed in range(2):
        done = next(
            place
            for place, line in enumerate(runs.lines)
            if f'tiny: plain, seed {seed}: miou' in line
        )
        waited = f'started tuned: plain, seed {seed}'
        assert runs.lines.index(waited) > done
    assert started[0].startswith('started tiny')


def test_several_at_a_time(tmp_path):
    """Each waits for the other, which would never end one by one."""
    wait = (
        'import time; open("here", "w"); '
        '[time.sleep(0.02) for _ in range(500) '
        'if not os.path.exists("../../{}/seed0/here")]; '
        'open("done", "w")'
    )
    runs = Runs({'a': wait.format('b'), 'b': wait.format('a')})
    jobs = make_jobs(tmp_path, ['a', 'b'], 1)
    began = time.monotonic()
    assert runs.queue(jobs, [Place(1), Place(1)]).run() == 0
    assert time.monotonic() - began < 9


def test_places_and_threads(tmp_path):
    """A job of two processes waits for two GPUs, and sees them alone."""
    program = (
        'open("done", "w").write(os.environ["CUDA_VISIBLE_DEVICES"] + " " '
        '+ os.environ["OMP_NUM_THREADS"])'
    )
    jobs = make_jobs(tmp_path, ['a'], 2, processes=2)
    runs = Runs({'a': program})
    places = [Place(3, (gpu,)) for gpu in range(4)]
    assert runs.queue(jobs, places).run() == 0
    seen = {(job.work_dir / 'done').read_text() for job in jobs}
    assert seen == {'0,1 3', '2,3 3'}


def test_several_on_a_gpu():
    places_of = load_tool('train_study.py').places_of
    assert places_of(2, 2, 3) == [Place(3, (gpu,)) for gpu in (0, 1, 0, 1)]
    assert places_of(0, 2, 3) == [Place(3), Place(3)]
    cores = os.cpu_count()
    assert places_of(0, 1, None) == [Place(cores)]
    assert places_of(cores, 2, None) == [
        Place(1, (gpu,)) for gpu in [*range(cores)] * 2
    ]


def test_failures_are_told_and_the_rest_goes_on(tmp_path):
    runs = Runs(
        {
            'bad': 'print("error: no data"); print("more"); exit(2)',
            'empty': 'pass',
        }
    )
    jobs = make_jobs(tmp_path, ['bad', 'empty', 'plain'], 1)
    assert runs.queue(jobs, [Place(1)]).run() == 1
    assert runs.finished == [('plain', 0)]
    told = [line for line in runs.lines if line.startswith('failed: ')]
    assert 'bad, seed 0: exit status 2: error: no data' in told[0]
    assert 'empty, seed 0: ended, and left no scores' in told[1]
    assert 'queue.log' in told[0]


SAVES = (
    'import signal, time; '
    'signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), '
    'open("saved", "w"), os._exit(143))); '
    'open("here", "w"); '
    '[time.sleep(0.02) for _ in range(1500) '
    'if not os.path.exists("../../go")]; open("done", "w")'
)


def two_runs(tmp_path, error):
    """One at work while the row of the other cannot be made."""
    long, short, third = make_jobs(tmp_path, ['long', 'short', 'third'], 1)
    runs = Runs({'long': SAVES})
    keep = runs.finish

    def finish(job, cost, place):
        if job is not short:
            return keep(job, cost, place)
        for _ in range(1500):
            if (long.work_dir / 'here').exists():
                break
            time.sleep(0.02)
        if isinstance(error, OSError):
            (tmp_path / 'tiny/go').touch()
        raise error

    runs.finish = finish
    return long, runs, runs.queue([long, short, third], [Place(1)] * 2)


def test_a_full_disk_fails_one_run(tmp_path):
    error = OSError(28, 'No space left on device')
    _, runs, queue = two_runs(tmp_path, error)
    assert queue.run() == 1
    assert runs.finished == [('long', 0)]
    told = 'failed: tiny: short, seed 0: OSError: [Errno 28] No space left'
    assert runs.lines[-1].startswith(told)
    assert 'not started: 1 runs' in runs.lines


def test_a_defect_lets_the_others_save(tmp_path):
    long, _, queue = two_runs(tmp_path, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        queue.run()
    assert (long.work_dir / 'saved').exists()
    assert Cost.of(long.work_dir).seconds > 0.2


def test_time_is_kept_while_a_run_goes_on(tmp_path):
    """A queue that is killed leaves it."""
    (job,) = make_jobs(tmp_path, ['a'], 1)
    program = 'import time; time.sleep(1.5); open("done", "w")'
    runs, seen = Runs({'a': program}), []
    queue = runs.queue([job], [Place(1)])

    def say(line):
        if line.startswith('running'):
            seen.append(Cost.of(job.work_dir).seconds)

    queue.say = say
    assert queue.run() == 0
    assert seen and 0 < seen[0] <= seen[-1] < Cost.of(job.work_dir).seconds


def test_a_failure_is_told_by_the_start_that_failed(tmp_path):
    """Not by an error of an earlier one, in the same log."""
    (job,) = make_jobs(tmp_path, ['bad'], 1)
    job.work_dir.mkdir(parents=True)
    (job.work_dir / 'queue.log').write_text('error: of yesterday\n')
    runs = Runs({'bad': 'print("out of memory"); exit(3)'})
    assert runs.queue([job], [Place(1)]).run() == 1
    assert 'exit status 3: out of memory (' in runs.lines[-1]


def test_first_signal_lets_runs_save(tmp_path):
    """They get SIGTERM, and are waited for; nothing new is started."""
    program = (
        'import signal, time; '
        'signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), '
        'open("saved", "w"), os._exit(143))); '
        'open("here", "w"); time.sleep(30)'
    )
    jobs = make_jobs(tmp_path, ['a'], 2)
    runs = Runs({'a': program})
    first = jobs[0].work_dir

    def stop():
        while not (first / 'here').exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert runs.queue(jobs, [Place(1)]).run() == 128 + signal.SIGTERM
    assert (first / 'saved').exists()
    assert not jobs[1].work_dir.exists()
    assert 'start the same command' in runs.lines[-1]
    assert Cost.of(first).seconds > 0.2
    # handlers are back
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_costs_add_up(tmp_path):
    job = make_jobs(tmp_path, ['a'], 1)[0]
    Cost(100.0, 5000.0).write(job.work_dir)
    seen = []
    runs = Runs()
    queue = Queue(
        [job],
        runs.following,
        lambda job, cost, place: seen.append(cost) or row(),
        [Place(1)],
        runs.lines.append,
    )
    assert queue.run() == 0
    assert 100 < seen[0].seconds < 110
    assert seen[0].peak_mb == 5000
    (job.work_dir / 'cost.json').write_text('{')
    assert Cost.of(job.work_dir) == Cost()


def test_orphans_do_not_hold_the_queue(tmp_path):
    """A session of its own: Ctrl-C at a terminal reaches the queue alone."""
    program = 'open("done", "w").write(f"{os.getsid(0)} {os.getpid()}")'
    runs = Runs({'a': program})
    (job,) = make_jobs(tmp_path, ['a'], 1)
    runs.queue([job], [Place(1)]).run()
    session, process = (job.work_dir / 'done').read_text().split()
    assert session == process != str(os.getsid(0))


def test_clock():
    assert clock(59.6) == '1 min 00 s'
    assert clock(3 * 3600 + 61) == '3 h 01 min'


# What names of the metrics of an evaluator begin with; VOC's come second.
GIVES = {
    'Accuracy': 'accuracy/',
    'IoUMetric': 'mIoU',
    'CocoMetric': 'coco/',
    'VOCMetric': 'coco/',
}


def test_studies_are_whole():
    """Every form has a config; ours differ in the operator."""
    for name in study_names():
        study = find_study(name, CONFIGS)
        assert study.forms, name
        for form in study.forms.values():
            assert form.config in CONFIGS, form
            assert form.seeds >= 1
            evaluator = used_config(CONFIGS[form.config], form.options)[
                'val_evaluator'
            ]
            if isinstance(evaluator, list | tuple):
                evaluator = evaluator[0]
            kind = evaluator['type'].rpartition('.')[2]
            assert METRICS[study.metric].keys[0].startswith(GIVES[kind]), form
    start = find_study('camvid_start', CONFIGS)
    assert len(start.forms) == 9
    neutral = start.forms['RFAConv neutral']
    assert neutral.config == start.forms['RFAConv'].config
    assert neutral.options['model.backbone.attention_conv.start'] == 'neutral'
    camvid = find_study('camvid', CONFIGS)
    assert len(camvid.forms) == 10  # with the controls
    assert len(find_study('clothing10', CONFIGS).forms) == 8
    assert [camvid.forms[f].seeds for f in ('plain', 'CAMConv')] == [8, 5]
    with pytest.raises(InputError, match='study: expected one of camvid_sta'):
        find_study('none', CONFIGS)


def test_dry_run_and_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main = load_tool('train_study.py').main

    def run(*words):
        status = run_tool(lambda: main([*words]))
        return status, *capsys.readouterr()

    status, out, _ = run('camvid', '--seeds', '1', '--dry-run')
    assert status == 0
    lines = out.splitlines()
    commands = [line for line in lines if 'tools/train.py' in line]
    assert len(commands) == sum(line[0] == '#' for line in lines) == 10
    assert 'randomness.seed=0' in out
    assert not list(tmp_path.iterdir())
    twice = 'camvid', 'camvid', '--forms', 'plain', 'plain', '--seeds', '1'
    assert run(*twice, '--dry-run')[1].count('# camvid: plain') == 1
    status, _, error = run('camvid_finetune', '--dry-run')
    assert status == 2
    assert 'camvid/plain/seed0: expected a network that was' in error
    plain = work_dir(tmp_path, 'camvid', 'plain', 0)
    name = find_study('camvid', CONFIGS).forms['plain'].config
    craft(plain, name, dict(mIoU=30.0), step=900)
    (plain / 'last_checkpoint').write_text('/elsewhere/iter_2000.pth')
    (plain / 'iter_2000.pth').touch()
    start = ['camvid_finetune', '--work-dir', str(tmp_path), '--dry-run']
    start += ['--seeds', '1', '--forms']
    assert 'trained to the end' in run(*start, 'plain')[2]
    craft(plain, name, dict(mIoU=30.0), time='20260102_000000')
    _, out, _ = run(*start, 'plain')
    assert f'load_from={plain}/iter_2000.pth' in out
    _, out, _ = run(*start, 'RFAConv')
    assert f'resnet_to_rfa.py {plain}/iter_2000.pth' in out
    assert '--cfg-options train_cfg.max_iters=250' in out
    assert '--depth=18 --attention-conv=RFAConv' in out
    own = work_dir(tmp_path, 'camvid_finetune', 'RFAConv', 0)
    own.mkdir(parents=True)
    (own / 'start.pth').touch()
    os.utime(own / 'start.pth', (1, 1))  # older than what was converted
    assert 'resnet_to_rfa.py' in run(*start, 'RFAConv')[1]
    (own / 'start.pth').touch()
    _, out, _ = run(*start, 'RFAConv')
    assert f'load_from={own}/start.pth' in out
    (own / 'last_checkpoint').touch()
    _, out, _ = run(*start, 'RFAConv')
    assert 'train.py --resume=auto' in out
    assert 'load_from' not in out
    for words, line in {
        ('none',): 'error: study: expected one of camvid_start',
        ('camvid', '--forms', 'Conv'): 'error: --forms: expected some of plai',
        ('camvid', '--jobs', '0'): 'error: --jobs: expected at least 1, got 0',
        ('voc12_segmentation',): 'error: --gpus: expected at least 4, as con',
        (*('voc12_segmentation', '--gpus', '8'), '--jobs', '2'): (
            'error: --jobs: expected 1, as config '
        ),
        ('camvid', '--cfg-options', 'optim_wrapper.optimizer.lr=1'): (
            'error: --cfg-options: expected settings of the machine, got '
        ),
        ('camvid', '--cfg-options', 'train_cfg.max_iters.a=1'): (
            "error: options {'train_cfg.max_iters.a': 1}: do not fit config "
        ),
    }.items():
        status, _, error = run(*words)
        assert status == 2
        assert error.startswith(line), error
        assert error.count('\n') == 1


def test_a_work_dir_of_another_recipe_is_refused(tmp_path, capsys):
    """Its scores would stand for the config as it is now."""
    main = load_tool('train_study.py').main
    name = find_study('camvid', CONFIGS).forms['plain'].config
    words = ['camvid', '--dry-run', '--seeds', '1', '--forms', 'plain']
    words += [f'--{k}={tmp_path}' for k in ('work-dir', 'results')]
    folder = work_dir(tmp_path, 'camvid', 'plain', 0)
    (craft(folder, name, dict(mIoU=30.0)) / 'vis_data/scalars.json').unlink()
    assert run_tool(lambda: main(words)) == 0
    other = {'optim_wrapper.optimizer.lr': 3.0}
    craft(folder, name, dict(mIoU=30.0), time='20260102_000000', **other)
    assert run_tool(lambda: main(words)) == 2
    error = capsys.readouterr().err
    assert f'error: {folder}: expected a run of the recipe of {name}' in error
    assert 'another in 20260102_000000' in error
