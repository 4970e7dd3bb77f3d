"""The options of callbacks=default: the bar's title, and how often and how long a table is."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from omni_rlvr.training.loggers import CompletionsTable, Tracker
from omni_rlvr.training.progress import ProgressBar


@pytest.mark.parametrize(
    ("every_n_steps", "max_rows", "tables"),
    [(1, 9, [(1, 3), (2, 3), (3, 3), (4, 3)]), (2, 9, [(2, 3), (4, 3)]), (4, 2, [(4, 2)])],
)
def test_a_table_comes_every_n_steps_with_max_rows(every_n_steps, max_rows, tables) -> None:
    seen: list[tuple[int, int]] = []
    tracker = Tracker(
        SimpleNamespace(log_metrics=lambda metrics, step: None),
        prefix="",
        log_config=None,
        log_table=lambda rows, step: seen.append((step, len(rows))),
        close=None,
    )
    callback = CompletionsTable(every_n_steps=every_n_steps, max_rows=max_rows)
    trainer: Any = SimpleNamespace(loggers=[tracker])
    for step in (1, 2, 3, 4):
        module: Any = SimpleNamespace(step=step, completions=[{"completion": "x"}] * 3)
        callback.on_train_batch_end(trainer, module, None, None, 0)
    assert seen == tables


def test_the_title_stands_before_the_bar() -> None:
    bar, trainer = ProgressBar(title="mine"), SimpleNamespace(num_training_batches=4)
    bar.on_train_start(trainer, SimpleNamespace(step=0))  # type: ignore[arg-type]
    assert bar.progress is not None
    assert bar.progress.tasks[0].description == "mine"
    bar.teardown(trainer, SimpleNamespace(step=0), "fit")  # type: ignore[arg-type]


def test_an_error_stops_the_bar() -> None:
    before = {*threading.enumerate()}
    bar, module = ProgressBar("train"), SimpleNamespace(step=0)
    bar.on_train_start(SimpleNamespace(num_training_batches=3), module)
    (drawing,) = {*threading.enumerate()} - before
    bar.on_exception(SimpleNamespace(), module, ValueError())
    drawing.join(timeout=60)
    assert not drawing.is_alive()
