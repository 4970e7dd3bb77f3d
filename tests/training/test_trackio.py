"""trackio on this machine, with the real package."""

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
    logger = TrackioLogger(str(tmp_path / "rlvr" / "one"), project="p", space_id=None)
    logger.log_hyperparams({"seed": 3})
    logger.log_metrics({"train/reward": 0.5}, 1)
    logger.log_table({"completion": ["happy"], "reward": [1.0]}, 1)
    logger.finalize("success")
    (path,) = tmp_path.glob("p*.db")
    with sqlite3.connect(path) as base:
        stored = base.execute("select step, metrics from metrics").fetchall()
    assert any(step == 1 and "train/reward" in str(metrics) for step, metrics in stored)
    assert any("completions" in str(metrics) for _, metrics in stored)
