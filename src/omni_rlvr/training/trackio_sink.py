"""Sends metrics and completions to trackio, for which Lightning has no logger."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


class TrackioSink:
    """One run in trackio, opened with the config and closed with ``close``."""

    def __init__(self, name: str, *, project: str, space_id: str | None):
        """Names the run; nothing is opened yet.

        Raises:
            ModuleNotFoundError: trackio is not installed.
        """
        self.trackio: Any = importlib.import_module("trackio")
        self.name = name
        self.project = project
        self.space_id = space_id
        self.run: Any = None

    def log_config(self, config: dict[str, Any]) -> None:
        """Opens the run with its config."""
        self.run = self.trackio.init(
            project=self.project,
            name=self.name,
            space_id=self.space_id,
            config=config,
            embed=False,
            resume="allow",
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Sends the metrics of a step."""
        self.run.log(dict(metrics), step=step)

    def log_table(self, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """Sends completions."""
        table = self.trackio.Table(dataframe=pd.DataFrame([dict(row) for row in rows]))
        self.run.log({"completions": table}, step=step)

    def close(self, status: str) -> None:
        """Ends the run, once all of it is written."""
        if self.run is not None:
            self.run.finish()
