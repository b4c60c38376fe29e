"""Going on in the middle of an epoch."""

from collections.abc import Sequence

from mmengine.runner import EpochBasedTrainLoop


def batches_done(loop: EpochBasedTrainLoop) -> int:
    """Count the batches of a begun epoch that were trained on.

    Args:
        loop (EpochBasedTrainLoop): between two batches.

    Returns:
        int: 0 between two epochs, and where a run goes on with batches of
        another size.
    """
    done = loop.iter - loop.epoch * len(loop.dataloader)
    return done if 0 < done <= len(loop.dataloader) else 0


class MidEpochLoop(EpochBasedTrainLoop):
    """MMEngine's loop over epochs, which can go on inside one.

    The batches that were trained on are loaded once more and left out.
    """

    def run_epoch(self) -> None:
        """Iterate one epoch, or the rest of one."""
        self._done = batches_done(self)
        if self._done:
            self.runner.logger.info(
                f'{self._done} batches of the epoch are done'
            )
        super().run_epoch()

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train on a batch unless that was done."""
        if idx >= self._done:
            super().run_iter(idx, data_batch)
