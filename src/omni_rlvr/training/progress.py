"""Progress bars: of training (step, loss, reward, tokens a second, time left), and a plain one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from pytorch_lightning import Callback, Trainer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from omni_rlvr.training.module import RLVRModule

NUMBERS = {"loss": ".3g", "reward": ".3g", "tokens/s": ".0f"}
"""Metrics beside the bar, and their formats: short ones, since all must fit into 80 columns."""


class ProgressBar(Callback):
    """Redraw one line; where the output is no terminal, print its last state alone.

    Lightning's RichProgressBar counts a resumed run from 0 and is cut in 80 columns. Lightning also
    wants trainer.enable_progress_bar for it, which is part of what runs are compared by.
    """

    def __init__(self, title: str):
        """Hold the title that stands before the bar, cut to 12 columns."""
        self.title = title
        self.progress: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: RLVRModule) -> None:
        """Show the bar."""
        total = pl_module.step + int(trainer.num_training_batches)
        # rich narrows the columns that may wrap first: the bar alone may
        self.progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=12)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(elapsed_when_finished=True, table_column=Column(no_wrap=True)),
            speed_estimate_period=math.inf,  # one step may take longer than rich's 30 s
        )
        self.progress.start()
        self.progress.add_task(self.title, total=total, completed=pl_module.step, numbers="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Move the bar."""
        assert self.progress is not None
        numbers = "  ".join(
            f"{name} {pl_module.last_metrics[name]:{form}}"
            for name, form in NUMBERS.items()
            if name in pl_module.last_metrics
        )
        self.progress.update(self.progress.task_ids[0], completed=pl_module.step, numbers=numbers)

    def on_exception(
        self, trainer: Trainer, pl_module: RLVRModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was: after an error, Lightning calls no ``teardown``."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: RLVRModule, stage: str) -> None:
        """Leave the terminal as it was."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress]:
    """Show a bar of work that is not training."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as progress:
        progress.add_task(title, total=total)
        yield progress
