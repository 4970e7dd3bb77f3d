"""The options of callbacks=default: the bar's title, and how often and how long a table is."""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from omni_rlvr.training.loggers import CompletionsTable, MetricsCsv, Tracker
from omni_rlvr.training.progress import ProgressBar


@pytest.mark.parametrize(
    ("every_n_steps", "max_rows", "tables"),
    [(1, 9, [(1, 3), (2, 3), (3, 3), (4, 3)]), (2, 9, [(2, 3), (4, 3)]), (4, 2, [(4, 2)])],
)
def test_a_table_comes_every_n_steps_with_max_rows(
    tmp_path: Path, every_n_steps, max_rows, tables
) -> None:
    seen: list[tuple[int, int]] = []

    class Noting(Tracker):
        def log_table(self, rows, step: int) -> None:
            seen.append((step, len(rows)))

    tracker = Noting(MetricsCsv(str(tmp_path)), prefix="")
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


def test_the_bar_is_whole_in_80_columns() -> None:
    bar = ProgressBar(title="rlvr_with_a_long_name")
    module: Any = SimpleNamespace(step=142, last_metrics={})
    trainer: Any = SimpleNamespace(num_training_batches=9858)
    bar.on_train_start(trainer, module)
    assert bar.progress is not None
    module.last_metrics = {"loss": -1.2345e-05, "reward": 1.23456, "tokens/s": 12345.6, "kl": 0.5}
    for module.step in (143, 144):
        time.sleep(0.1)
        bar.on_train_batch_end(trainer, module, None, None, 0)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(bar.progress.get_renderable())
    bar.teardown(trainer, module, "fit")
    (line,) = console.export_text().splitlines()
    assert line.startswith("rlvr_with_a…")
    numbers = r" +144/10000 loss -1\.23e-05  reward 1\.23  tokens/s 12346 0:\d\d:\d\d"
    assert re.search(f"{numbers} *$", line)


def test_a_log_file_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    bar, module = ProgressBar("train"), SimpleNamespace(step=0, last_metrics={"loss": 0.5})
    trainer: Any = SimpleNamespace(num_training_batches=1000)
    bar.on_train_start(trainer, module)  # type: ignore[arg-type]
    for module.step in range(1, 1001):
        bar.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    bar.teardown(trainer, module, "fit")  # type: ignore[arg-type]
    assert file.getvalue().count("1000/1000 loss 0.5") == file.getvalue().count("\n") == 1


def test_an_error_stops_the_bar() -> None:
    before = {*threading.enumerate()}
    bar, module = ProgressBar("train"), SimpleNamespace(step=0)
    bar.on_train_start(SimpleNamespace(num_training_batches=3), module)
    (drawing,) = {*threading.enumerate()} - before
    bar.on_exception(SimpleNamespace(), module, ValueError())
    drawing.join(timeout=60)
    assert not drawing.is_alive()
