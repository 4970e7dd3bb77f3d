"""Make the tables of a report as data frames, with a row for each run or for each setting.

Files hold plain numbers (parquet, csv) or what a paper prints (Markdown, LaTeX): 81.7 ± 1.5, where
± is the sample standard deviation over seeds (ddof 1), or of one run 81.7 [78.2, 85.0], its 95 %
interval over clips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from omni_rlvr.record import SCORES
from omni_rlvr.tasks.report.cells import csv_cell, latex, markdown
from omni_rlvr.tasks.report.columns import SEED, Row
from omni_rlvr.tasks.report.gather import RunData

TRAINING = ("reward", "loss")
"""Columns that replace the scores if no run was evaluated."""
ABSENT = "-"
MEAN, STD = "mean", "std"
LOW, HIGH = "low", "high"
POINTS = ("difference", LOW, HIGH)
"""Columns of a comparison, in points of WAR."""


def runs_table(runs: Sequence[RunData], keys: Sequence[str], values: Sequence[Row]) -> pd.DataFrame:
    """Lay out one row a run: its name, the keys that differ, its scores in percent.

    If no run was evaluated, the reward or loss at the end of training replaces the scores.
    """
    rows, splits = [], splits_of(runs)
    for run, value in zip(runs, values, strict=True):
        row: Row = {"run": run.name, "status": run.record["status"], **value}
        for split in splits:
            scores = run.scores.get(split, {})
            for score in SCORES:
                if any(score in other.scores.get(split, {}) for other in runs):
                    row[f"{split}/{score}"] = scores.get(score)
                if any(f"{score}_ci" in other.scores.get(split, {}) for other in runs):
                    ends = scores.get(f"{score}_ci", [None, None])
                    row |= {f"{split}/{score}/{LOW}": ends[0], f"{split}/{score}/{HIGH}": ends[1]}
        if not splits:
            row |= {f"training/{name}": mean for name, mean in run.last_values(TRAINING).items()}
        rows.append(row | {"seconds": run.seconds})
    frame = pd.DataFrame(rows)
    for key in keys:  # parquet needs one type in a column
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
            for end in (LOW, HIGH):
                if f"{score}/{end}" in part:
                    alone = len(part) == 1
                    row[f"{score}/{end}"] = part[f"{score}/{end}"].iloc[0] if alone else math.nan
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
    columns = [c for c in frame.columns if not c.endswith((f"/{STD}", f"/{LOW}", f"/{HIGH}"))]
    header = [c.removesuffix(f"/{MEAN}") for c in columns]
    rows = [[_cell(row, column) for column in columns] for row in frame.to_dict("records")]
    return header, rows


def write_table(frame: pd.DataFrame, stem: Path, notes: Sequence[str] = ()) -> list[Path]:
    """Write a table as parquet, csv, Markdown (with notes below) and LaTeX; return the files."""
    files = [stem.with_suffix(suffix) for suffix in (".parquet", ".csv", ".md", ".tex")]
    header, rows = printed(frame)
    frame.to_parquet(files[0], index=False)
    frame.map(csv_cell).rename(columns=csv_cell).to_csv(files[1], index=False)
    blocks = [markdown(header, rows), *notes]
    files[2].write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
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
        text = f"{value:{form}}" if alone else f"{value:{form}} ± {spread:{form}}"
        return f"{text}{_ends(row, column.removesuffix(f'/{MEAN}'))}"
    if tail in TRAINING and "/" in column:
        return f"{value:.3f}"
    if tail in SCORES or column == "seconds":
        return f"{value:.1f}{_ends(row, column)}"
    if column in POINTS:
        return f"{value:+.1f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ends(row: Mapping[str, Any], score: str) -> str:
    """Write the interval of a score, where the table has one."""
    low, high = row.get(f"{score}/{LOW}"), row.get(f"{score}/{HIGH}")
    return "" if low is None or high is None or low != low else f" [{low:.1f}, {high:.1f}]"
