"""Sends sampled completions to the trackers that have tables, as TRL's log_completions does."""

from __future__ import annotations

from pytorch_lightning import Callback, Trainer

from omni_rlvr.training.module import RLVRModule
from omni_rlvr.training.trackers import Tracker


class CompletionsTable(Callback):
    """A table of the step's completions with their rewards, every few steps."""

    def __init__(self, every_n_steps: int, max_rows: int):
        """Holds the settings.

        Args:
            every_n_steps: steps between tables.
            max_rows: completions a table, the first of the step.
        """
        self.every_n_steps = every_n_steps
        self.max_rows = max_rows

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Sends the table if its time has come and the stage samples."""
        rows = pl_module.completions[: self.max_rows]
        if not rows or pl_module.step % self.every_n_steps:
            return
        for tracker in trainer.loggers:
            if isinstance(tracker, Tracker) and tracker.log_table is not None:
                tracker.log_table(rows, pl_module.step)
