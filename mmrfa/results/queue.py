"""Trains studies: forms times seeds, several runs at a time, resumable."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmrfa.checkpoints.writing import FULL, write_whole
from mmrfa.engine.config import reason
from mmrfa.engine.stopping import StopSignals
from mmrfa.errors import InputError
from mmrfa.results.origin import commit
from mmrfa.results.records import Record, slug
from mmrfa.results.runs import SCALARS, read_scalars
from mmrfa.results.studies import Form, Study
from mmrfa.results.zoo import PLAIN

LOG = 'queue.log'
COST = 'cost.json'
POLL = 0.5  # seconds


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        study (Study): the study.
        form (Form): what is trained.
        seed (int): its seed.
        config (Path): the file.
        processes (int): that its recipe wants.
        work_dir (Path): of this run alone.
    """

    study: Study
    form: Form
    seed: int
    config: Path
    processes: int
    work_dir: Path

    @property
    def key(self) -> tuple[str, str, int]:
        """Which run it is, as ``Record.key``."""
        return self.study.name, self.form.name, self.seed

    @property
    def after(self) -> tuple[str, str, int] | None:
        """The run whose network it starts as, by its key."""
        start = self.study.start_from
        return (start, PLAIN, self.seed) if start else None

    @property
    def title(self) -> str:
        """For people."""
        return f'{self.study.name}: {self.form.name}, seed {self.seed}'


def work_dir(folder: Path, study: str, form: str, seed: int) -> Path:
    """Where a run of a study is trained."""
    return folder / study / slug(form) / f'seed{seed}'


def by_seeds(jobs: list[Job]) -> list[Job]:
    """Seed by seed, all forms: a queue cut short still holds whole pairs."""
    return sorted(jobs, key=lambda job: job.seed)


@dataclass
class Cost:
    """What a run took, over all its starts.

    Attributes:
        seconds (float): of wall time.
        peak_mb (float): most resident memory, MiB.
        commits (list[str]): of the code at each start, where it was another
            than before.
    """

    seconds: float = 0.0
    peak_mb: float = 0.0
    commits: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> 'Cost':
        """Read what earlier starts took."""
        try:
            return cls(**json.loads((folder / COST).read_text()))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Keep it for the next start."""
        write_whole(json.dumps(asdict(self)).encode(), folder / COST)


@dataclass
class Place:
    """What a job runs on: cores, or GPUs by their numbers."""

    threads: int
    gpus: tuple[int, ...] = ()

    def environment(self) -> dict[str, str]:
        """Of the processes of a job."""
        names = dict(os.environ, OMP_NUM_THREADS=str(self.threads))
        names.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
        if self.gpus:
            names['CUDA_VISIBLE_DEVICES'] = ','.join(map(str, self.gpus))
        return names


@dataclass
class Running:
    """A job at work."""

    job: Job
    place: Place
    cost: Cost
    command: list[str] | None = None
    process: subprocess.Popen | None = None
    counted: float = 0.0  # until when seconds are in the cost
    logged: int = 0  # bytes of the log before this command

    def start(self, command: list[str]) -> None:
        """Start a command of it, all output into its log."""
        self.command = command
        self.job.work_dir.mkdir(parents=True, exist_ok=True)
        if (now := commit()) not in self.cost.commits[-1:]:
            self.cost.commits.append(now)
            self.cost.write(self.job.work_dir)
        with (self.job.work_dir / LOG).open('a', encoding='utf-8') as log:
            self.logged = log.tell()
            # A session of its own: Ctrl-C reaches the queue alone, which
            # asks its jobs to save.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.place.environment(),
                start_new_session=True,
            )
        self.counted = time.monotonic()

    def poll(self) -> int | None:
        """Exit status of the command, None while it runs."""
        self.cost.peak_mb = max(
            self.cost.peak_mb, resident_peak(self.process.pid)
        )
        status, now = self.process.poll(), time.monotonic()
        self.cost.seconds += now - self.counted
        self.counted = now
        return status

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self) -> None:
        """Until the command has ended."""
        if self.process:
            self.process.wait()
            self.poll()

    def last_line(self) -> str:
        """What the log ends with, for the one line about a failure."""
        with (self.job.work_dir / LOG).open('rb') as log:
            log.seek(self.logged)
            text = log.read().decode(errors='replace')
        lines = [line for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith('error: ')]
        return (errors or lines or ['no output'])[-1].strip()


def resident_peak(process: int) -> float:
    """Most memory a process has held, MiB; 0 where the system does not say."""
    try:
        status = Path(f'/proc/{process}/status').read_text()
        return int(status.split('VmHWM:')[1].split()[0]) / 1024
    except (OSError, IndexError, ValueError):
        return 0.0


def steps_done(folder: Path) -> int:
    """Iterations that a run has logged; 0 before the first."""
    last = 0
    for path in sorted(folder.glob(f'*/{SCALARS}')):
        for line in read_scalars(path):
            if 'loss' in line and isinstance(line.get('step'), int):
                last = line['step']
    return last


class Queue:
    """Runs jobs until all are done, or a signal comes.

    The first Ctrl-C or SIGTERM lets every run finish its step and save; the
    second stops at once. Started again, finished runs are skipped and others
    go on from their newest checkpoint.

    Args:
        jobs (list[Job]): in their order; one that starts as the network of
            another here waits for it, and others go first.
        following (Callable): what a job is to do next, by what lies in its
            work dir: a command, or None once it is done.
        finish (Callable): makes the row of a job that is done, and keeps it.
        places (list[Place]): each takes a job at a time; a job that wants
            more processes takes more GPUs.
        say (Callable): takes lines of progress.
        every (float): seconds between lines about all that runs.
    """

    def __init__(
        self,
        jobs: list[Job],
        following: Callable[[Job], list[str] | None],
        finish: Callable[[Job, Cost, Place], Record],
        places: list[Place],
        say: Callable[[str], None] = print,
        every: float = 60.0,
    ) -> None:
        self.waiting = list(jobs)
        self.total = len(jobs)
        self.following, self.finish, self.say = following, finish, say
        self.free = list(places)
        self.every = every
        self.running: list[Running] = []
        self.done = 0
        self.failed: list[str] = []

    def run(self) -> int:
        """Work through the jobs.

        Returns:
            int: 0 once all are done, 1 where some failed; 128 and its number
            after a signal.
        """
        with StopSignals() as signals:
            try:
                stopped_by = self._work(signals)
            except KeyboardInterrupt:  # the second signal
                self._signal(signal.SIGKILL)
                raise
        if stopped_by:
            self.say(
                f'stopped with {self.done} of {self.total} runs done; '
                'to go on, start the same command'
            )
            return 128 + stopped_by
        for line in self.failed:
            self.say(f'failed: {line}')
        return 1 if self.failed else 0

    def _work(self, signals: StopSignals) -> int:
        """Until all is done, or has been stopped: by which signal, or 0."""
        told = self.began = time.monotonic()
        asked = 0
        try:
            while self.running or (self.waiting and not asked):
                if signals.number and not asked:
                    asked = signals.number
                    self._signal(signal.SIGTERM)
                while not asked and self._start_one():
                    pass
                time.sleep(POLL)
                for each in list(self.running):
                    self._look_at(each, asked)
                if self.running and time.monotonic() - told > self.every:
                    told = time.monotonic()
                    self._tell()
        except Exception:  # an error of ours costs no run its steps
            self._signal(signal.SIGTERM)
            for each in self.running:
                each.wait()
                self._keep_cost(each)
            raise
        return asked

    def _signal(self, number: int) -> None:
        for each in self.running:
            each.signal(number)

    def _start_one(self) -> bool:
        """Start the next job that can, if it finds a place."""
        working = [each.job for each in self.running]
        to_come = {job.key for job in [*working, *self.waiting]}
        ready = [job for job in self.waiting if job.after not in to_come]
        place = self._take(ready[0].processes) if ready else None
        if place is None:
            return False
        job = ready[0]
        self.waiting.remove(job)
        self.say(f'started {job.title}')
        each = Running(job, place, Cost.of(job.work_dir))
        self.running.append(each)
        self._go_on(each)
        return True

    def _take(self, processes: int) -> Place | None:
        needed = processes if self.free and self.free[0].gpus else 1
        if len(self.free) < needed:
            return None
        taken, self.free = self.free[:needed], self.free[needed:]
        gpus = tuple(gpu for place in taken for gpu in place.gpus)
        return Place(taken[0].threads, gpus)

    def _look_at(self, each: Running, asked: int) -> None:
        status = each.poll()
        if status is None:
            return
        self._keep_cost(each)
        if asked:
            self._leave(each)
        elif status:
            self._fail(each, f'exit status {status}: {each.last_line()}')
        else:
            self._go_on(each)

    def _go_on(self, each: Running) -> None:
        """Start the next command of a job, or make its row."""
        try:
            command = self.following(each.job)
            if command is None:
                record = self.finish(each.job, each.cost, each.place)
            elif command == each.command:
                raise InputError('ended, and left no scores')
            else:
                each.start(command)
                return
        except (InputError, OSError) as error:
            self._fail(each, reason(error))
            if getattr(error, 'errno', None) in FULL and self.waiting:
                # Each of them would fail in a moment.
                self.say(f'not started: {len(self.waiting)} runs')
                self.waiting.clear()
            return
        self._leave(each)
        self.done += 1
        self.say(
            f'[{self.done}/{self.total}] {each.job.title}: '
            f'{record.metric} {record.score:.2f} ({record.scored}), '
            f'{clock(each.cost.seconds)}{self._left()}'
        )

    def _keep_cost(self, each: Running) -> None:
        """For the next start of the queue, which may come without warning."""
        try:
            each.cost.write(each.job.work_dir)
        except OSError as error:
            self.say(f'{each.job.title}: time not kept: {reason(error)}')

    def _leave(self, each: Running) -> None:
        self.running.remove(each)
        gpus = [(gpu,) for gpu in each.place.gpus] or [()]
        self.free += [Place(each.place.threads, gpu) for gpu in gpus]

    def _fail(self, each: Running, why: str) -> None:
        self._leave(each)
        log = each.job.work_dir / LOG
        self.failed.append(f'{each.job.title}: {why} ({log})')
        self.say(f'failed: {self.failed[-1]}')

    def _tell(self) -> None:
        for each in self.running:
            self._keep_cost(each)
        names = ', '.join(
            f'{each.job.form.name} {each.job.seed} at step '
            f'{steps_done(each.job.work_dir)}'
            for each in self.running
        )
        self.say(f'running: {names}{self._left()}')

    def _left(self) -> str:
        """Time left, from how fast jobs have gone so far."""
        left = len(self.waiting) + len(self.running)
        if not self.done or not left:
            return ''
        speed = (time.monotonic() - self.began) / self.done
        return f'; about {clock(speed * left)} left'


def clock(seconds: float) -> str:
    """Hours and minutes."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours} h {minutes:02d} min'
    return f'{minutes} min {rest:02d} s'
