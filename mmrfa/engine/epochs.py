"""Going on in the middle of an epoch."""

from collections.abc import Sequence

from mmengine.runner import EpochBasedTrainLoop


class MidEpochLoop(EpochBasedTrainLoop):
    """MMEngine's loop over epochs, which can go on inside one.

    The batches that were trained on are loaded once more and left out.
    """

    def run_epoch(self) -> None:
        """Iterate one epoch, or the rest of one."""
        done = self._iter - self._epoch * len(self.dataloader)
        self._done = done if 0 < done <= len(self.dataloader) else 0
        if self._done:
            self.runner.logger.info(f'{done} batches of the epoch are done')
        super().run_epoch()

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train on a batch unless that was done."""
        if idx >= self._done:
            super().run_iter(idx, data_batch)
