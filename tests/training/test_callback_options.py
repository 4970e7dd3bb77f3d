"""The options of callbacks=default: the bar's title, and how often and how long a table is."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

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


def trained(bar: ProgressBar, *steps: int) -> None:
    """Tells the bar of a training of 1,000 steps."""
    module: Any = SimpleNamespace(step=0, last_metrics={"loss": 0.51234, "reward": 1.5, "kl": 0.1})
    bar.on_train_start(SimpleNamespace(num_training_batches=1000), module)  # type: ignore[arg-type]
    for module.step in steps:
        bar.on_train_batch_end(SimpleNamespace(), module, None, None, 0)  # type: ignore[arg-type]
    bar.teardown(SimpleNamespace(), module, "fit")  # type: ignore[arg-type]


def test_the_title_and_some_metrics_stand_beside_the_bar(capsys) -> None:
    trained(ProgressBar(title="mine"), *range(1, 1001))
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"mine  1000/1000  elapsed \d:\d\d  loss 0\.512  reward 1\.5", line)


def test_an_error_stops_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    monkeypatch.setenv("TERM", "xterm")
    before = {*threading.enumerate()}
    bar, module = ProgressBar("train"), SimpleNamespace(step=0)
    bar.on_train_start(SimpleNamespace(num_training_batches=3), module)  # type: ignore[arg-type]
    (drawing,) = {*threading.enumerate()} - before
    bar.on_exception(SimpleNamespace(), module, ValueError())  # type: ignore[arg-type]
    drawing.join(timeout=60)
    assert not drawing.is_alive()
