"""The validation that a run was to make when it was stopped."""

from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmrfa.checkpoints.writing import write_whole
from mmrfa.engine.epochs import batches_done
from mmrfa.engine.resuming import STOPPING

# In the work dir: the step whose validation was the last one to end.
RECORD = 'last_validation'


class ValidateFirstHook(Hook):
    """Begins a run that goes on with the validation of its last step.

    Checkpoints are saved in front of it. What follows from its metrics (the
    best checkpoint, early stopping, schedules that wait for a plateau) is in
    none of them, so that it is made again even where it came to its end.
    Only the last one of a run is not: there nothing would follow.
    """

    priority = 'LOWEST'  # behind the hooks that take back what they kept

    def before_train(self, runner: Runner) -> None:
        """Validate if that is what comes next."""
        record = Path(runner.work_dir) / RECORD
        done, end, unit = _progress(runner)
        known = [_read(record) == f'{done} {unit}']
        broadcast_object_list(known)
        due = done > 0 and _is_due(runner, done, end)
        if done >= end and (known[0] or not due):
            runner.logger.info(
                f'--resume: all {end} {unit} are done'
                + ', and the validation behind them' * due
                + '; there is nothing left to do'
            )
            return
        if is_main_process():
            record.unlink(missing_ok=True)
        if due:
            runner.logger.info(
                f'--resume: begins with the validation after {done} {unit}, '
                'in front of which the checkpoint was saved'
            )
            runner.val_loop.run()

    def after_val(self, runner: Runner) -> None:
        """Note that it came to its end."""
        if is_main_process():
            done, _, unit = _progress(runner)
            record = Path(runner.work_dir) / RECORD
            write_whole(f'{done} {unit}'.encode(), record)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add ``early_stopping``: the count and the best score of each."""
        counts = [
            dict(count=hook.wait_count, best=float(hook.best_score))
            for hook in _stopping(runner)
        ]
        if counts:
            checkpoint[STOPPING] = counts

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take them back where a run goes on."""
        counts = checkpoint.get(STOPPING)
        if not runner._resume or not isinstance(counts, list):
            return
        for hook, kept in zip(_stopping(runner), counts):
            hook.wait_count = kept.get('count', 0)
            hook.best_score = kept.get('best', hook.best_score)


def _progress(runner: Runner) -> tuple[int, int, str]:
    """What is done of the run, its end, and the unit of both."""
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return runner.epoch, runner.max_epochs, 'epochs'
    return runner.iter, runner.max_iters, 'iterations'


def _read(record: Path) -> str:
    return record.read_text(errors='replace') if record.is_file() else ''


def _stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [h for h in runner.hooks if isinstance(h, EarlyStoppingHook)]


def _is_due(runner: Runner, done: int, end: int) -> bool:
    """As MMEngine's loops decide behind a step."""
    loop = runner.train_loop
    if runner.val_loop is None or not isinstance(
        loop, EpochBasedTrainLoop | IterBasedTrainLoop
    ):
        return False
    if isinstance(loop, EpochBasedTrainLoop) and batches_done(loop):
        return False
    loop._decide_current_val_interval()
    return done >= loop.val_begin and (
        done % loop.val_interval == 0 or done == end
    )
