"""Progress bars: of training (step, loss, reward, tokens a second, time left), and a plain one; a
clock for steps.
"""

from __future__ import annotations

import contextlib
import time
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

from omni_rlvr.training.module import RLVRModule


class ProgressBar(Callback):
    """One line, redrawn; on a terminal that cannot redraw, only its last state is printed."""

    def __init__(self, title: str):
        """Args: what stands before the bar."""
        self.title = title
        self.progress: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: RLVRModule) -> None:
        """Shows the bar."""
        total = pl_module.step + int(trainer.num_training_batches)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress.start()
        self.progress.add_task(self.title, total=total, completed=pl_module.step, numbers="")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Moves the bar."""
        assert self.progress is not None
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in pl_module.bar.items())
        self.progress.update(self.progress.task_ids[0], completed=pl_module.step, numbers=numbers)

    def on_exception(
        self, trainer: Trainer, pl_module: RLVRModule, exception: BaseException
    ) -> None:
        """Leave the terminal as it was: after an error, Lightning calls no ``teardown``."""
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: RLVRModule, stage: str) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress]:
    """A bar for work that is not training."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns) as progress:
        progress.add_task(title, total=total)
        yield progress


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long a step took."""
    print(f"== {name.replace('_', ' ')}", flush=True)
    started = time.perf_counter()
    yield
    seconds[name.replace(" ", "_")] = round(time.perf_counter() - started, 1)
