"""One row per finished run of a study, and its scalars.

``runs.csv`` has the rows, ``scalars/STUDY/FORM-SEED.jsonl.gz`` what MMEngine
logged, one JSON object on each line, and a last line with the scores of the
test split, ``{"test": {...}}``, where there are any.
"""

import csv
import gzip
import hashlib
import io
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mmrfa.checkpoints.writing import write_whole
from mmrfa.engine.config import reason
from mmrfa.errors import InputError
from mmrfa.results.runs import METRICS, Run, last_evaluation, recipe

TABLE = 'runs.csv'


@dataclass(frozen=True)
class Record:
    """A row of ``runs.csv``.

    Attributes:
        study, form, seed: which run it is.
        metric (str): key of ``runs.METRICS``.
        val (float): that of the last step, in per cent.
        test (float | None): likewise, of the test split, if it was scored.
        steps (int): iterations trained, up to the last one that was logged.
        step_seconds (float): median of what MMEngine logged for a step,
            beside whatever else ran; not for comparisons of speed.
        seconds (float): from start to end, all starts together.
        peak_mb (float): the most memory that the process held, MiB; of a GPU
            if there is one.
        params (int), gflops (float): of the network, MMEngine's count.
        date, cpu, threads, versions, commit: where and when.
        config (str): of the zoo.
        options (str): entries that are other than the config's, as JSON.
        recipe (str): digest of all that decides what the run reaches.
        checkpoint (str): sha256 of the last one.
    """

    study: str
    form: str
    seed: int
    metric: str
    val: float
    test: float | None
    steps: int
    step_seconds: float
    seconds: float
    peak_mb: float
    params: int
    gflops: float
    date: str
    cpu: str
    threads: int
    versions: str
    commit: str
    config: str
    options: str
    recipe: str
    checkpoint: str

    @property
    def key(self) -> tuple[str, str, int]:
        """Which run it is."""
        return self.study, self.form, self.seed

    @property
    def scored(self) -> str:
        """The split of ``score``."""
        return 'val' if self.test is None else 'test'

    @property
    def score(self) -> float:
        """That of the test split if there is one, else of val."""
        return self.val if self.test is None else self.test


KINDS = {'int': int, 'float': float, 'str': str}


def read_records(folder: Path) -> list[Record]:
    """Read ``runs.csv``.

    Args:
        folder (Path): where it lies; without one there are no rows.

    Returns:
        list[Record]: in the order of the file.

    Raises:
        InputError: another table, a run that is there twice, or a value of
            another kind.
    """
    path = folder / TABLE
    if not path.is_file():
        return []
    names = [field.name for field in fields(Record)]
    # What is no UTF-8 is in no name of ours.
    with path.open(encoding='utf-8', errors='replace', newline='') as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != names:
            raise InputError(
                f'{path}: expected the columns {", ".join(names)}, got '
                f'{", ".join(reader.fieldnames or ["none"])}'
            )
        found = {}
        for line in reader:
            record = _parse(path, reader.line_num, line)
            if record.key in found:
                raise InputError(
                    f'{path}: line {reader.line_num}: expected a run once, '
                    f'got {", ".join(map(str, record.key))} again'
                )
            found[record.key] = record
        return [*found.values()]


def _parse(path: Path, number: int, line: dict[str, str]) -> Record:
    values = {}
    if None in line or None in line.values():
        cells = [cell for cell in line.values() if isinstance(cell, str)]
        raise InputError(
            f'{path}: line {number}: expected {len(fields(Record))} cells, '
            f'got {len(cells) + len(line.get(None, ()))}'
        )
    for field in fields(Record):
        text = line[field.name]
        kind = str(getattr(field.type, '__name__', field.type))
        if text == '' and 'None' in str(field.type):
            values[field.name] = None
            continue
        try:
            value = KINDS.get(kind, float)(text)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError('no number')
            if field.name == 'options':
                json.loads(text).items()
        except (AttributeError, ValueError):
            kind = 'a JSON object' if field.name == 'options' else kind
            raise InputError(
                f'{path}: line {number}: expected {kind} for {field.name}, '
                f'got {text!r}'
            ) from None
        values[field.name] = value
    return Record(**values)


def add_record(folder: Path, record: Record) -> None:
    """Add a row to ``runs.csv``, which is written whole.

    Args:
        folder (Path): where it lies; made as needed.
        record (Record): the row; one of the same run goes.
    """
    kept = [r for r in read_records(folder) if r.key != record.key]
    text = io.StringIO()
    names = [field.name for field in fields(Record)]
    writer = csv.DictWriter(text, names, lineterminator='\n')
    writer.writeheader()
    writer.writerows(map(asdict, [*kept, record]))
    write_whole(text.getvalue().encode(), folder / TABLE)


def scalars_file(folder: Path, study: str, form: str, seed: int) -> Path:
    """Where the scalars of a run are kept."""
    return folder / 'scalars' / study / f'{slug(form)}-{seed}.jsonl.gz'


def slug(form: str) -> str:
    """The name of a form as that of a file."""
    return '_'.join(form.replace(',', '').split()).lower()


def write_scalars(path: Path, lines: list[dict]) -> None:
    """Keep scalars, compressed; the same lines give the same bytes."""
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    write_whole(gzip.compress(text.encode(), mtime=0), path)


def read_kept_scalars(path: Path) -> list[dict]:
    """Read scalars that were kept.

    Raises:
        InputError: the file is missing or not one of them.
    """
    try:
        text = gzip.decompress(path.read_bytes()).decode()
        return [json.loads(line) for line in text.splitlines() or ['']]
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f'{path}: cannot be read: {error}') from error


def scores_of(
    lines: list[dict], metric: str
) -> tuple[float | None, float | None]:
    """Last score of the validation and of the test split, in per cent.

    Args:
        lines (list[dict]): kept scalars.
        metric (str): key of ``runs.METRICS``.

    Returns:
        tuple[float | None, float | None]: None where there is none.
    """
    tested = [line['test'] for line in lines if 'test' in line]
    logged = [line for line in lines if 'test' not in line]
    _, found = last_evaluation(logged)
    splits = found, tested[-1] if tested else {}
    scores = []
    for split in splits:
        values = [split[k] for k in METRICS[metric].keys if k in split]
        scores.append(values[0] * METRICS[metric].factor if values else None)
    return tuple(scores)


def curve(lines: list[dict], metric: str) -> dict[int, float]:
    """Scores of the validation split by step, in per cent.

    Args:
        lines (list[dict]): kept scalars.
        metric (str): key of ``runs.METRICS``.
    """
    keys, factor = METRICS[metric].keys, METRICS[metric].factor
    return {
        line['step']: line[key] * factor
        for line in lines
        for key in keys
        if key in line
    }


def used_config(path: Path, options: dict) -> dict:
    """A config with options, without importing what it needs.

    Raises:
        InputError: options that do not fit.
    """
    from mmengine.config import Config

    config = Config.fromfile(path, import_custom_modules=False)
    try:
        config.merge_from_dict(options)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f'options {options}: do not fit config {path}: {reason(error)}'
        ) from error
    return config.to_dict()


def digest(config: dict) -> str:
    """Digest of what a network is, and is trained and watched by.

    Not in it: the seed, weights that it starts from, and what is done with
    the test split.

    Args:
        config (dict): read from its file, options merged.

    Returns:
        str: 12 hexadecimal digits. Machine, folders and workers are left out.
    """
    text = json.dumps(recipe(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def as_runs(folder: Path, configs: dict[str, Path]) -> list[Run]:
    """The rows as runs of their configs, for the tables of the zoo.

    Args:
        folder (Path): where ``runs.csv`` lies.
        configs (dict[str, Path]): files of the zoo by name.

    Returns:
        list[Run]: with the metrics of their kept scalars; what is not as the
        config says, or said then, is in ``changes``.
    """
    runs = []
    for record in read_records(folder):
        path = scalars_file(folder, *record.key)
        lines = [x for x in read_kept_scalars(path) if 'test' not in x]
        options = json.loads(record.options)
        changes = [f'{key} {value}' for key, value in options.items()]
        config = configs.get(record.config)
        if config is None or record.recipe != digest(
            used_config(config, options)
        ):
            changes.append(f'the config as it was at {record.commit}')
        runs.append(
            Run(
                folder=path,
                config=record.config,
                seed=record.seed,
                metrics=last_evaluation(lines)[1],
                changes=tuple(changes),
            )
        )
    return runs
