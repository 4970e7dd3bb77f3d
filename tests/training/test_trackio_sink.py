"""trackio on this machine, with the real package; it needs nothing of torch, so it may have a venv
of its own (its pins do not fit ours): pytest --noconftest tests/training/test_trackio_sink.py
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

trackio = pytest.importorskip("trackio", reason="trackio is not installed")

from omni_rlvr.training.loggers import TrackioLogger  # noqa: E402


@pytest.mark.filterwarnings("ignore")  # the package's own
def test_trackio_keeps_metrics_config_and_a_table(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path, raising=False)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path, raising=False)
    sink = TrackioLogger(str(tmp_path / "rlvr" / "one"), project="p", space_id=None)
    sink.log_hyperparams({"seed": 3})
    sink.log_metrics({"train/reward": 0.5}, 1)
    sink.log_table({"completion": ["happy"], "reward": [1.0]}, 1)
    sink.finalize("success")
    (path,) = tmp_path.glob("p*.db")
    with sqlite3.connect(path) as base:
        stored = base.execute("select step, metrics from metrics").fetchall()
    assert any(step == 1 and "train/reward" in str(metrics) for step, metrics in stored)
    assert any("completions" in str(metrics) for _, metrics in stored)
