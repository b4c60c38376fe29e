"""The size that images of a batch get goes on as well."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

KEY = 'batch_sizes'
# What BatchSyncRandomResize and those derived from it draw now and then, and
# keep as plain attributes.
ATTRIBUTES = '_input_size', 'interp_mode'


class BatchSizeHook(Hook):
    """Keeps in checkpoints what batch augmentations drew some steps ago."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add ``batch_sizes``: attributes by the name of the module."""
        drawn = {
            name: {a: getattr(m, a) for a in ATTRIBUTES if hasattr(m, a)}
            for name, m in _resizing(runner).items()
        }
        if drawn:
            checkpoint[KEY] = drawn

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take them back where a run goes on."""
        drawn = checkpoint.get(KEY)
        if not runner._resume or not isinstance(drawn, dict):
            return
        for name, module in _resizing(runner).items():
            vars(module).update(drawn.get(name, {}))


def _resizing(runner: Runner) -> dict[str, nn.Module]:
    model = runner.model
    model = model.module if is_model_wrapper(model) else model
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, '_input_size')
    }
