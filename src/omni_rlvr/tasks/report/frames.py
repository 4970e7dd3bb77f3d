"""Make the tables of a report as data frames: a row a run, or a row a setting over its seeds.

Files hold plain numbers (parquet, csv) or what a paper prints (Markdown, LaTeX): 81.7 ± 1.5, where
± is the sample standard deviation over seeds (ddof 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from omni_rlvr.tasks.report.cells import csv_cell, latex, markdown
from omni_rlvr.tasks.report.columns import SEED, Row
from omni_rlvr.tasks.report.gather import RunData

SCORES = ("war", "uar", "format")
TRAINING = ("reward", "loss")
"""Columns in place of the scores where no run was evaluated."""
ABSENT = "-"
MEAN, STD = "mean", "std"
POINTS = ("difference", "low", "high")
"""Columns of a comparison, in points of WAR."""


def runs_table(runs: Sequence[RunData], keys: Sequence[str], values: Sequence[Row]) -> pd.DataFrame:
    """Lay out one row a run: its name, the keys that differ, its scores in percent.

    Where no run was evaluated, the reward or loss of the end of training stands in their place.
    """
    rows, splits = [], splits_of(runs)
    for run, value in zip(runs, values, strict=True):
        row: Row = {"run": run.name, "status": run.record["status"], **value}
        for split in splits:
            scores = run.scores.get(split, {})
            row |= {f"{split}/{score}": scores.get(score) for score in SCORES}
        if not splits:
            row |= {f"training/{name}": mean for name, mean in run.last_values(TRAINING).items()}
        rows.append(row | {"seconds": run.seconds})
    frame = pd.DataFrame(rows)
    for key in keys:  # of one type, as parquet wants
        kinds = {type(value) for value in frame[key]} - {int, float}
        known = {type(value) for value in frame[key].dropna()}
        if len(kinds) > 1 or (len(known) > 1 and not known <= {int, float}):
            frame[key] = [None if pd.isna(v) else str(v) for v in frame[key]]
    return frame


def settings_table(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Compute the mean and spread over seeds of all finished runs with the same setting.

    Args:
        frame: from ``runs_table``.
        keys: the keys that differ, the seed among them or not.

    Returns:
        A row a setting: its keys, ``runs``, and ``<split>/<score>/mean`` and ``/std``; the std of
        one run is missing.
    """
    done = frame[frame["status"] == "finished"]
    by = [key for key in keys if key != SEED]
    wanted = {f"/{name}" for name in (*SCORES, *TRAINING)}
    scores = [column for column in frame if column[column.rfind("/") :] in wanted]
    rows = []
    groups = done.groupby(by, sort=False, dropna=False) if by else [((), done)] if len(done) else []
    for setting, part in groups:
        row: Row = {**dict(zip(by, setting, strict=True)), "runs": len(part)}
        for score in scores:
            values = part[score].dropna().astype(float)
            row[f"{score}/{MEAN}"] = values.mean() if len(values) else None
            row[f"{score}/{STD}"] = values.std(ddof=1) if len(values) > 1 else None
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else [*by, "runs"])


def splits_of(runs: Sequence[RunData]) -> list[str]:
    """List the splits that any run was evaluated on, in the order they are met."""
    return list(dict.fromkeys(split for run in runs for split in run.scores))


def printed(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Format a table for readers: one decimal, mean and std in one cell.

    Returns:
        The header, and the cells of every row.
    """
    columns = [c for c in frame.columns if not c.endswith(f"/{STD}")]
    header = [c.removesuffix(f"/{MEAN}") for c in columns]
    rows = [[_cell(row, column) for column in columns] for row in frame.to_dict("records")]
    return header, rows


def write_table(frame: pd.DataFrame, stem: Path) -> list[Path]:
    """Write a table as parquet, csv, Markdown and LaTeX; return the files."""
    files = [stem.with_suffix(suffix) for suffix in (".parquet", ".csv", ".md", ".tex")]
    header, rows = printed(frame)
    frame.to_parquet(files[0], index=False)
    frame.map(csv_cell).rename(columns=csv_cell).to_csv(files[1], index=False)
    files[2].write_text(markdown(header, rows) + "\n", encoding="utf-8")
    files[3].write_text(latex(header, rows), encoding="utf-8")
    return files


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if value is None or (isinstance(value, float) and value != value):
        return ABSENT
    tail = column.rsplit("/", 1)[-1]
    if tail == MEAN:
        spread = row[f"{column.removesuffix(MEAN)}{STD}"]
        form = ".3f" if column.split("/")[-2] in TRAINING else ".1f"
        alone = spread is None or spread != spread
        return f"{value:{form}}" if alone else f"{value:{form}} ± {spread:{form}}"
    if tail in TRAINING and "/" in column:
        return f"{value:.3f}"
    if tail in SCORES or column == "seconds":
        return f"{value:.1f}"
    if column in POINTS:
        return f"{value:+.1f}"
    return f"{value:g}" if isinstance(value, float) else str(value)
