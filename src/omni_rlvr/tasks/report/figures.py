"""Draw the figures of a report: scores by setting, heat maps, curves, recall, confusion.

Seeds of one setting are averaged (confusion counts are added up). A figure with a panel or a colour
for each setting shows only a few settings; the caller decides which. Each function saves its figure
to ``path`` and returns its caption, or None if there is nothing to draw.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omni_rlvr.tasks.report import plots
from omni_rlvr.tasks.report.columns import RUN, SEED
from omni_rlvr.tasks.report.drawing import save, shortened, width_of
from omni_rlvr.tasks.report.gather import RunData

DPI = 110
MAX_HEAT_MAPS = 3
MAX_DOTS = 80
"""Most settings in the figure of scores."""
MAX_PANEL_IN = 4.0
"""Longest side of a confusion matrix among others, in inches."""
MAX_CLASS = 24
"""Most characters of a class name beside such a matrix."""

Colours = Mapping[str, Any]
"""Name of a setting -> its colour in every figure; settings shown only as dots have none."""


Settings = Mapping[str, Sequence[RunData]]
"""Name of a setting -> its finished runs, one a seed."""


@plots.plain_text
def score_dots(settings: Settings, split: str, colours: Colours, path: Path) -> str:
    """Draw WAR of every setting, or of the best ones: a dot for each run, a bar at the mean."""
    scored = {name: [run["war"] for run in runs] for name, runs in _scores(settings, split).items()}
    best = sorted(scored, key=lambda name: -np.mean(scored[name]))[:MAX_DOTS]
    kept = [name for name in scored if name in best]
    names = shortened(kept, limit=plots.MAX_NAME)
    size = (5.5 + width_of(names, size=8), 1.2 + 0.26 * len(kept))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(kept):
        values = scored[name]
        colour = colours.get(name, "0.5")
        axes.plot(values, [i] * len(values), "o", color=colour, alpha=0.7, markersize=5)
        if len(values) > 1:
            axes.plot(np.mean(values), i, "|", color="0.15", markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(kept)), names, fontsize=8)
    axes.set(xlabel="WAR (%)", title=f"WAR on {split}")
    axes.set_ylim(len(kept) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.4)
    left_out = len(scored) - len(kept)
    more = f" The {len(kept)} best are shown, {left_out} are not." if left_out else ""
    save(figure, path, dpi=DPI, tight=False)
    return f"WAR on {split}: a dot a run, the bar is their mean.{more}"


def heat_tables(frame: pd.DataFrame, keys: Sequence[str], split: str) -> dict[str, pd.DataFrame]:
    """Average WAR over every two keys that differ; the first tables where most cells were run.

    Args:
        frame: a row a run, from ``frames.runs_table``.
        keys: the keys that differ.
        split: whose WAR.

    Returns:
        Name of the picture -> table, at most ``MAX_HEAT_MAPS`` of them.
    """
    done = frame[frame["status"] == "finished"].dropna(subset=f"{split}/war")
    by = [key for key in keys if key not in (SEED, RUN) and 1 < done[key].nunique() <= 20]
    tables: dict[str, pd.DataFrame] = {}
    for rows, columns in combinations(by, 2):
        table = done.pivot_table(index=rows, columns=columns, values=f"{split}/war")
        if table.notna().to_numpy().mean() > 0.5:
            tables[f"heat_{split}_{rows}_{columns}.png".replace("/", "-")] = table
    return dict(islice(tables.items(), MAX_HEAT_MAPS))


@plots.plain_text
def heat_map(table: pd.DataFrame, split: str, path: Path) -> str:
    """Draw a table from ``heat_tables``."""
    rows, columns = str(table.index.name), str(table.columns.name)
    names = [shortened([str(v) for v in part], limit=24) for part in (table.index, table.columns)]
    size = (3.2 + width_of(names[0], size=10) + 0.7 * len(names[1]), 1.8 + 0.45 * len(names[0]))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    sns.heatmap(
        table,
        ax=axes,
        annot=True,
        fmt=".1f",
        cmap="viridis",
        linewidths=0.5,
        cbar_kws={"label": "WAR (%)"},
        xticklabels=False,
        yticklabels=False,
    )
    axes.set_yticks(np.arange(len(names[0])) + 0.5, names[0], rotation=0)
    axes.set_xticks(np.arange(len(names[1])) + 0.5, names[1], rotation=0)
    if width_of(names[1], size=10) > 0.65:
        plots.tilt(axes)
    tails = [key.rsplit(".", 1)[-1] for key in (rows, columns)]
    axes.set_title(f"Mean WAR on {split}\nby {' and '.join(tails)}")
    save(figure, path, dpi=DPI, tight=False)
    return f"Mean WAR on {split} over {rows} and {columns}; other keys and seeds are averaged."


def curves(settings: Settings, colours: Colours, path: Path) -> str | None:
    """Draw learning curves, the mean over a setting's runs; None where no run trained."""
    records = {name: _mean_curve(runs) for name, runs in settings.items()}
    if not any(row.keys() & _SHOWN for rows in records.values() for row in rows):
        return None
    records = {name: rows for name, rows in records.items() if rows}
    plots.learning_curves(records, path, colours=colours)
    return "Training, mean over the runs of a setting; bold is the running mean."


def recalls(settings: Settings, split: str, colours: Colours, path: Path) -> str | None:
    """Draw recall per class, the mean over a setting's runs."""
    labels = _labels(settings, split)
    means = {}
    for name, runs in _scores(settings, split).items():
        values = pd.DataFrame([run["recall"] for run in runs]).astype(float)
        means[name] = (values.reindex(columns=labels).mean() / 100).tolist()
    if not means:
        return None
    plots.recall_bars(means, labels, path, split=split, colours=colours)
    return f"Recall per class on {split}, mean over the runs of a setting."


@plots.plain_text
def confusions(settings: Settings, split: str, path: Path) -> str | None:
    """Draw a panel for each setting: colour is the share of the gold class, counts are summed."""
    panels = {}
    for name, found in _scores(settings, split).items():
        scored = [scores for scores in found if "confusion" in scores]  # questions have no classes
        if not scored:
            continue
        same = [s["confusion"] for s in scored if s["labels"] == scored[0]["labels"]]
        panels[name] = (np.sum(same, axis=0), scored[0]["labels"], len(same))
    if not panels:
        return None
    num_columns = min(3, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    size = max(len(labels) for _, labels, _ in panels.values())
    cell = min(0.36, MAX_PANEL_IN / size)
    points = max(plots.MIN_TEXT_PT, min(7.0, 72 * cell * 0.7))
    room = 0.2 + width_of(
        shortened(_labels(settings, split), limit=MAX_CLASS), size=points
    )  # of the names of classes, beside and below a panel
    side = cell * (size + 1)
    width, height = num_columns * (side + room + 0.5), num_rows * (side + room + 0.8) + 0.4
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=(room + 0.3) / width,
        right=1 - 0.2 / width,
        bottom=(room + 0.3) / height,
        top=1 - 0.9 / height,
        wspace=(room + 0.5) / side,
        hspace=(room + 0.8) / side,
    )
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    titles = _panel_titles(panels, side + room)
    for axes, title, (counts, labels, _) in zip(grid, titles, panels.values(), strict=False):
        _draw_confusion(axes, counts, labels, points)
        axes.set_title(title, fontsize=8)
    for axes in grid[len(panels) :]:
        axes.remove()
    figure.suptitle(f"Confusion on {split}", fontsize=10, y=1 - 0.15 / height)
    save(figure, path, dpi=DPI, tight=False)
    text = f"Confusion on {split}: rows are gold, columns answers, the last is any other answer."
    return f"{text} Counts are added up over the runs of a setting."


def _panel_titles(panels: Mapping[str, tuple[np.ndarray, Sequence[str], int]], width: float):
    """Title panels of a width in inches, in two lines, with the number of runs where needed."""
    limit = max(12, 2 * int(width / width_of("x", size=8)))
    names = shortened(list(panels), limit=limit)
    counts = [count for _, _, count in panels.values()]
    for name, count in zip(names, counts, strict=True):
        runs = f" ({count} runs)" if max(counts) > 1 else ""
        yield "\n".join(textwrap.wrap(name + runs, limit // 2 + 8))


def _draw_confusion(axes: Axes, counts: np.ndarray, labels: Sequence[str], points: float) -> None:
    shares = plots.class_shares(counts)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if counts[row, column] and points > plots.MIN_TEXT_PT:
            ink = "white" if share > 0.6 else "0.2"
            text = str(int(counts[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=points, color=ink)
    names = shortened(labels, limit=MAX_CLASS)
    axes.set_xticks(range(len(labels) + 1), [*names, "other"], fontsize=points)
    plots.tilt(axes, 60)
    axes.set_yticks(range(len(labels)), names, fontsize=points)
    axes.set_xlabel("answered", fontsize=7)
    axes.set_ylabel("gold", fontsize=7)


_SHOWN = {*plots.SFT_PANELS, *plots.RL_PANELS}


def _mean_curve(runs: Sequence[RunData]) -> list[dict[str, float]]:
    """Average what the panels show over runs, step by step."""
    rows = pd.DataFrame([row for run in runs for row in run.curves()])
    if rows.empty:
        return []
    shown = rows[["step", *(name for name in rows if name in _SHOWN)]].astype(float)
    means = shown.groupby("step", as_index=False).mean().to_dict("records")
    return [{str(k): v for k, v in row.items() if v == v} for row in means]


def _scores(settings: Settings, split: str) -> dict[str, list[dict[str, Any]]]:
    """Collect the scores of each setting's runs on a split; settings without any are left out."""
    scores = {
        n: [r.scores[split] for r in runs if split in r.scores] for n, runs in settings.items()
    }
    return {name: rows for name, rows in scores.items() if rows}


def _labels(settings: Settings, split: str) -> list[str]:
    """List the labels of all runs on a split, in the order they are met."""
    rows = [row for rows in _scores(settings, split).values() for row in rows]
    return list(dict.fromkeys(label for row in rows for label in row["labels"]))
