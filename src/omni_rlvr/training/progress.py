"""The progress bar of training: step, loss, reward, tokens per second, time spent and left."""

from __future__ import annotations

from pytorch_lightning import Callback, Trainer

from omni_rlvr.text.progress import Bar
from omni_rlvr.training.module import RLVRModule

NUMBERS = {"loss": ".3g", "reward": ".3g", "tokens/s": ".0f"}
"""Metrics beside the bar, and their formats."""


class ProgressBar(Callback):
    """Show training step by step.

    Lightning's RichProgressBar counts a resumed run from 0 and is cut off at 80 columns. It also
    needs trainer.enable_progress_bar, an option that a resumed run may not change.
    """

    def __init__(self, title: str):
        """Set the title, which stands before the bar."""
        self.title = title
        self.bar: Bar | None = None

    def on_train_start(self, trainer: Trainer, pl_module: RLVRModule) -> None:
        """Show the bar."""
        total = pl_module.step + int(trainer.num_training_batches)
        self.bar = Bar(self.title, total, pl_module.step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Move the bar."""
        assert self.bar is not None
        numbers = [
            f"{name} {pl_module.last_metrics[name]:{form}}"
            for name, form in NUMBERS.items()
            if name in pl_module.last_metrics
        ]
        self.bar.advance(pl_module.step, numbers)

    def on_exception(
        self, trainer: Trainer, pl_module: RLVRModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was: after an error, Lightning calls no ``teardown``."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: RLVRModule, stage: str) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
