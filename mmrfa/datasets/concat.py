"""Data sets joined into one, with a pipeline that can be changed."""

from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS


@DATASETS.register_module()
class ConcatOfOnePipeline(ConcatDataset):
    """ConcatDataset whose data sets share their pipeline.

    The hooks that change a pipeline late in a training (mmdet's
    ``PipelineSwitchHook``) set it on the outermost data set, which an
    ordinary ``ConcatDataset`` does not look at.

    Args:
        datasets (list[dict]): the data sets, without pipelines.
        pipeline (list[dict]): transforms of all of them.
        **kwargs: those of MMEngine's ``ConcatDataset``.
    """

    def __init__(
        self, datasets: list[dict], pipeline: list[dict], **kwargs
    ) -> None:
        super().__init__(
            [dict(part, pipeline=pipeline) for part in datasets], **kwargs
        )

    @property
    def pipeline(self):
        """The transforms, composed."""
        return self.datasets[0].pipeline

    @pipeline.setter
    def pipeline(self, pipeline) -> None:
        for part in self.datasets:
            part.pipeline = pipeline
