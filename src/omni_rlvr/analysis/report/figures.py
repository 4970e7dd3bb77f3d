"""The figures of a report: scores by setting, heat maps, curves, recall, confusion.

Seeds of one setting are averaged (confusion counts are added up). A figure with a panel or a colour
a setting shows a few settings only; which, the caller decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omni_rlvr.analysis import plots
from omni_rlvr.analysis.report.columns import SEED
from omni_rlvr.analysis.report.gather import RunData

MAX_HEAT_MAPS = 3


@dataclass(frozen=True)
class Picture:
    """A figure on disk and what a reader is told of it."""

    path: Path
    caption: str


Settings = Mapping[str, Sequence[RunData]]
"""Name of a setting -> its finished runs, one a seed."""


def score_dots(settings: Settings, split: str, path: Path) -> Picture:
    """Draws WAR of every setting: a dot a run, a bar at the mean."""
    figure = Figure(figsize=(7.5, 1.2 + 0.32 * len(settings)), layout="constrained")
    axes = figure.subplots()
    for i, runs in enumerate(settings.values()):
        values = [run.scores[split]["war"] for run in runs if split in run.scores]
        axes.plot(values, [i] * len(values), "o", color="C0", alpha=0.6, markersize=5)
        if values:
            axes.plot(np.mean(values), i, "|", color="0.15", markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(settings)), list(settings), fontsize=8)
    axes.set(xlabel="WAR (%)", title=f"WAR on {split}")
    axes.set_ylim(len(settings) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.4)
    return _saved(figure, path, f"WAR on {split}: a dot a run, the bar is their mean.")


def heat_maps(frame: pd.DataFrame, keys: Sequence[str], split: str, folder: Path) -> list[Picture]:
    """Draws mean WAR over every two keys that differ, at most three maps.

    Args:
        frame: a row a run, from ``table.runs_table``.
        keys: the keys that differ.
        split: whose WAR.
        folder: where the pictures go.
    """
    by = [key for key in keys if key != SEED and 1 < frame[key].nunique() <= 20]
    pictures = []
    for rows, columns in list(combinations(by, 2))[:MAX_HEAT_MAPS]:
        done = frame[frame["status"] == "finished"]
        table = done.pivot_table(index=rows, columns=columns, values=f"{split}/war")
        if table.size < 2:
            continue
        size = (3.0 + 0.7 * table.shape[1], 1.8 + 0.45 * table.shape[0])
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        sns.heatmap(table, ax=axes, annot=True, fmt=".1f", cmap="viridis", linewidths=0.5)
        axes.set_title(f"WAR on {split} (%), mean")
        name = f"heat_{split}_{rows}_{columns}.png".replace("/", "-")
        text = f"Mean WAR on {split} over {rows} and {columns}; other keys and seeds are averaged."
        pictures.append(_saved(figure, folder / name, text))
    return pictures


def curves(settings: Settings, path: Path) -> Picture | None:
    """Draws learning curves, the mean over a setting's runs; None where no run trained."""
    records = {name: _mean_curve(runs) for name, runs in settings.items()}
    records = {name: rows for name, rows in records.items() if rows}
    if not any(key in row for rows in records.values() for row in rows for key in _SHOWN):
        return None
    plots.learning_curves(records, path)
    return Picture(path, "Training, mean over the runs of a setting; bold is the running mean.")


def recalls(settings: Settings, split: str, path: Path) -> Picture | None:
    """Draws recall per class, the mean over a setting's runs."""
    labels = _labels(settings, split)
    means = {}
    for name, runs in settings.items():
        rows = [run.scores[split]["recall"] for run in runs if split in run.scores]
        if rows:
            values = pd.DataFrame(rows).astype(float).reindex(columns=labels)
            means[name] = (values.mean() / 100).tolist()
    if not means:
        return None
    plots.recall_bars(means, labels, path)
    return Picture(path, f"Recall per class on {split}, mean over the runs of a setting.")


def confusions(settings: Settings, split: str, path: Path) -> Picture | None:
    """Draws a panel a setting: colour is the share of the gold class, counts add up over runs."""
    panels = {}
    for name, runs in settings.items():
        scored = [run.scores[split] for run in runs if split in run.scores]
        same = [s["confusion"] for s in scored if s["labels"] == scored[0]["labels"]]
        if same:
            panels[name] = (np.sum(same, axis=0), scored[0]["labels"], len(same))
    if not panels:
        return None
    num_columns = min(3, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    size = max(len(labels) for _, labels, _ in panels.values())
    side = 1.6 + 0.36 * size
    figure = Figure(figsize=(side * num_columns, side * num_rows))
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        0.75 / width, 0.6 / height, 1 - 0.1 / width, 1 - 0.4 / height, hspace=0.5, wspace=0.45
    )
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes, (name, (counts, labels, num_runs)) in zip(grid, panels.items(), strict=False):
        _draw_confusion(axes, counts, labels, f"{name} ({num_runs} runs)")
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.savefig(path, dpi=110)  # no tight box: with so many texts it would double the time
    text = f"Confusion on {split}: rows are gold, columns answers, the last is any other answer."
    return Picture(path, f"{text} Counts are added up over the runs of a setting.")


def _draw_confusion(axes: Axes, counts: np.ndarray, labels: Sequence[str], title: str) -> None:
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if counts[row, column]:
            ink = "white" if share > 0.6 else "0.2"
            text = str(int(counts[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(len(labels) + 1), [*labels, "other"], fontsize=7, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), list(labels), fontsize=7)
    axes.set_title(title, fontsize=8)


_SHOWN = {*plots.SFT_PANELS, *plots.RL_PANELS}


def _mean_curve(runs: Sequence[RunData]) -> list[dict[str, float]]:
    """Averages what the panels show over runs, step by step."""
    rows = [
        {"step": row["step"], **{k: row[k] for k in _SHOWN if row.get(k) is not None}}
        for run in runs
        for row in run.curves()
    ]
    if not rows:
        return []
    means = pd.DataFrame(rows).groupby("step", as_index=False).mean()
    return [
        {str(key): value for key, value in row.items() if value == value}
        for row in means.to_dict("records")
    ]


def _labels(settings: Settings, split: str) -> list[str]:
    lists = [
        r.scores[split]["labels"] for runs in settings.values() for r in runs if split in r.scores
    ]
    return list(dict.fromkeys(label for labels in lists for label in labels))


def _saved(figure: Figure, path: Path, caption: str) -> Picture:
    figure.savefig(path, dpi=110)
    return Picture(path, caption)
