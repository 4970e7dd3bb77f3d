"""Metrics as one CSV file, a line a step: what a spreadsheet opens.

It is made from metrics.jsonl, which is the record: when a run begins or goes on, the file is
written anew from there, and each further line is added to both. A column that appears later makes
the file be written again with the longer header.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from omni_rlvr.folders import write_file
from omni_rlvr.record import plain, read_jsonl

STEP = "step"


class MetricsCsv:
    """Writes ``metrics.csv``."""

    def __init__(self, path: Path, prefix: str):
        """Args: the file, which is made with the first line; what stands before a metric's name."""
        self.path = path
        self.prefix = prefix
        self.rows: list[dict[str, object]] = []
        self.columns: list[str] = [STEP]

    def follow_record(self) -> None:
        """Make the file from the metrics.jsonl beside it."""
        self.rows = [
            {name if name == STEP else f"{self.prefix}{name}": value for name, value in row.items()}
            for row in read_jsonl(self.path.with_name("metrics.jsonl"))
        ]
        self.columns = list(dict.fromkeys([STEP, *(name for row in self.rows for name in row)]))
        if self.rows:
            self._write_all()
        else:
            self.path.unlink(missing_ok=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a line; what is not finite is left empty, as in metrics.jsonl."""
        row = {STEP: step, **{name: plain(value) for name, value in metrics.items()}}
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        if new or len(self.rows) == 1:
            self.columns += new
            self._write_all()
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text([row]))

    def _write_all(self) -> None:
        header = self._text([{name: name for name in self.columns}])
        write_file(self.path, f"{header}{self._text(self.rows)}".encode())

    def _text(self, rows: list[dict[str, object]]) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns, lineterminator="\n").writerows(rows)
        return text.getvalue()
