"""Metrics as one CSV file, a line a step: what a spreadsheet opens.

A column that appears later makes the file be written again with the longer header. A resumed run
drops the lines of the steps that it does again.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

STEP = "step"


class MetricsCsv:
    """Writes ``metrics.csv``."""

    def __init__(self, path: Path):
        """Args: the file, which is made with the first line."""
        self.path = path
        self.rows: list[dict[str, object]] | None = None
        self.columns: list[str] = [STEP]

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds a line."""
        if self.rows is None:
            self.rows = self._rows_before(step)
        row: dict[str, object] = {STEP: step, **metrics}
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        if new or len(self.rows) == 1:
            self.columns += new
            self._write("w", self.rows, header=True)
        else:
            self._write("a", [row], header=False)

    def _rows_before(self, step: int) -> list[dict[str, object]]:
        """What an earlier part of the run wrote, up to ``step``; the file is cut to that."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows: list[dict[str, object]] = [
                dict(row) for row in reader if (row[STEP] or "").isdigit() and int(row[STEP]) < step
            ]
            self.columns = list(reader.fieldnames or [STEP])
        self._write("w", rows, header=True)
        return rows

    def _write(self, mode: str, rows: list[dict[str, object]], *, header: bool) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            if header:
                writer.writeheader()
            writer.writerows(rows)
