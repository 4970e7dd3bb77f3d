"""Draw the figures of a study: confusion, learning curves, recall per class, scores.

Every function draws on a Figure of its own (no pyplot state, no display needed), saves it to
``path`` and returns it. Sizes grow with the content, so that no label is clipped. Only the running
mean of the curves is computed here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from omni_rlvr.tasks.report.drawing import INK, plain_text, save, shortened, width_of
from omni_rlvr.tasks.report.text_tables import PARTS, display_name, split_name

MODALITY = "by modality"
MAX_SIDE_IN = 16.0
"""Longest side of a picture in inches; larger contents are drawn smaller."""
MAX_NAME = 44
"""Most characters of a name in a legend or beside an axis."""
BAR_CHARS = 13
"""Characters that fit below a bar of the summary."""
MIN_TEXT_PT = 4.0
"""Smaller text is left out."""
MAX_COUNTED = 30
"""Most classes whose counts are written into a confusion matrix."""

SFT_PANELS = {"loss": ("SFT loss", "nats per token")}
RL_PANELS = {
    "reward": ("Reward", "weighted sum of terms"),
    "rewards/accuracy/mean": ("Accuracy reward", "mean over completions"),
    "rewards/format/mean": ("Format reward", "mean over completions"),
    "kl": ("KL to the reference", "nats per token"),
    "completions/mean_length": ("Completion length", "tokens"),
}
SMOOTHING_SHARE = 0.05
"""Window of the running mean of a curve, as a share of its number of points."""


@plain_text
def confusion_figure(
    matrix: torch.Tensor | Sequence[Sequence[int]], labels: Sequence[str], title: str, path: Path
) -> Figure:
    """Draw a confusion matrix: colour is the share of the gold class, text the count.

    Args:
        matrix: [C, C + 1] int64 counts; the last column holds answers outside the label list.
        labels: C class names, in the order of the rows.
        title: What is shown, e.g. ``RLVR on the test split``.
        path: The picture to write; its suffix names the format.

    Returns:
        The figure, already saved.
    """
    counts = torch.as_tensor(matrix, device="cpu").numpy()
    names = shortened(labels, limit=MAX_NAME)
    cell = min(0.55, (MAX_SIDE_IN - 4) / len(labels))
    points = min(10.0, 72 * cell * 0.6)
    side = cell * len(labels) + max(2.6, 1.2 + width_of(names, size=max(points, MIN_TEXT_PT)))
    figure = Figure(figsize=(side + 0.9, side - 0.7), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(
        100.0 * class_shares(counts),
        ax=axes,
        annot=counts if len(labels) <= MAX_COUNTED else None,
        fmt="d",
        annot_kws={"size": min(9.0, points)},
        cmap="Blues",
        vmin=0,
        vmax=100,
        square=True,
        linewidths=0.5 if cell >= 0.2 else 0,
        linecolor="0.92",
        xticklabels=False,
        yticklabels=False,
        cbar_kws={"label": "% of the gold class", "shrink": 0.75},
    )
    axes.axvline(len(labels), color=INK, linewidth=1.5)
    rows = [f"{name} ({n})" for name, n in zip(names, counts.sum(axis=1), strict=True)]
    every = math.ceil(MIN_TEXT_PT / points)  # with very many classes, only every n-th is named
    middles = np.arange(len(labels) + 1) + 0.5
    axes.set_xticks(middles[::every], [*names, "other"][::every], size=points * every)
    tilt(axes)
    axes.set_yticks(middles[:-1:every], rows[::every], size=points * every, rotation=0)
    axes.set(xlabel="answered", ylabel="gold (samples)")
    axes.set_title(title)
    return save(figure, path)


def class_shares(counts: np.ndarray) -> np.ndarray:
    """Divide each row of counts by its sum; a row without samples becomes zeros."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)


@plain_text
def learning_curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]], path: Path, *, colours: Mapping[str, Any]
) -> Figure:
    """Draw one panel for each metric: raw values faint, their running mean bold, one colour a run.

    A run with a ``reward`` is RL and shows reward, accuracy, format, KL and length; any other is
    SFT and shows its loss. Panels without values are left out.

    Args:
        runs: Name of the run -> the records of its metrics.jsonl, each with a ``step``. Where a
            step comes twice (a resumed run), the later record counts.
        path: The picture to write; its suffix names the format.
        colours: Name of the run -> its colour, as ``drawing.model_colours`` gives them.

    Returns:
        The figure, already saved.

    Raises:
        ValueError: No run has a value to draw.
    """
    panels = _curves_by_panel(runs)
    if not panels:
        raise ValueError(f"no values to draw in the runs {sorted(runs)}")
    num_columns = min(3, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(4.2 * num_columns, 2.9 * num_rows + 0.4), layout=layout)
        grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes, (key, curves) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, key, curves, colours)
    for axes in grid[len(panels) :]:
        axes.remove()
    if len(runs) > 1:
        lines = [Line2D([], [], color=colours[name], linewidth=2) for name in runs]
        _legend_below(figure, lines, list(runs))
    names = "" if len(runs) > 1 else f" of {display_name(next(iter(runs)))}"
    figure.suptitle(f"Learning curves{names}\nfaint: every record, bold: running mean")
    return save(figure, path)


def _legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Put a legend below the axes, in as many columns as fit the width, and make room for it."""
    shown = shortened([display_name(name) for name in names], limit=MAX_NAME)
    width, height = figure.get_size_inches()
    num_columns = max(1, min(4, len(names), int(width / (0.8 + width_of(shown, size=9)))))
    figure.set_size_inches(width, height + 0.19 * math.ceil(len(names) / num_columns))
    figure.legend(
        handles, shown, loc="outside lower center", ncols=num_columns, frameon=False, fontsize=9
    )


@plain_text
def recall_bars(
    recalls: Mapping[str, Sequence[float] | torch.Tensor],
    labels: Sequence[str],
    path: Path,
    *,
    split: str,
    colours: Mapping[str, Any],
) -> Figure:
    """Draw the recall of each class, with one bar for each model.

    Args:
        recalls: Model -> C fractions in [0, 1], as ``per_class_recall`` gives them. A class that is
            NaN for every model is marked as having no samples.
        labels: C class names.
        path: The picture to write; its suffix names the format.
        split: What was evaluated on, for the title.
        colours: Model -> its colour, as ``drawing.model_colours`` gives them.

    Returns:
        The figure, already saved; its axis is in percent.
    """
    fractions = np.stack([torch.as_tensor(v, device="cpu").double() for v in recalls.values()])
    width = 0.8 / len(recalls)
    size = min(MAX_SIDE_IN, max(4.5, 2.0 + len(labels) * max(0.6, 0.16 * len(recalls))))
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(size, 4.0), layout="constrained")
        axes = figure.subplots()
    centres = np.arange(len(labels))
    for i, model in enumerate(recalls):
        offset = (i - (len(recalls) - 1) / 2) * width
        axes.bar(centres + offset, fractions[i] * 100, width, color=colours[model])
    for i in np.flatnonzero(np.isnan(fractions).all(axis=0)).tolist():
        axes.text(i, 2, "no samples", ha="center", va="bottom", fontsize=8, rotation=90, color=INK)
    name_classes(axes, shortened(labels, limit=MAX_NAME), (size - 1.0) / len(labels))
    names = "" if len(recalls) > 1 else f" of {display_name(next(iter(recalls)))}"
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set(ylim=(0, 105), ylabel="recall (%)", title=f"Recall per class{names} on {split}")
    axes.grid(axis="x", visible=False)
    if len(recalls) > 1:
        _legend_below(figure, [bars[0] for bars in axes.containers], list(recalls))
    return save(figure, path)


def name_classes(axes: Axes, names: Sequence[str], width: float) -> None:
    """Name the classes below an axis; tilt the names if one is wider than ``width`` inches."""
    points = max(MIN_TEXT_PT, min(10.0, 72 * width))
    axes.set_xticks(range(len(names)), names, size=points)
    if width_of(names, size=points) > 0.95 * width:
        tilt(axes)


def tilt(axes: Axes, degrees: float = 45) -> None:
    """Tilt the names below an axis, so that their ends are below their ticks."""
    for text in axes.get_xticklabels():
        text.set(rotation=degrees, ha="right", rotation_mode="anchor")


@plain_text
def summary_bars(
    summary: Mapping[str, Any], path: Path, *, chance: float, colours: Mapping[str, Any]
) -> Figure:
    """Draw WAR by model on each split, and by modality, with the oracle and chance as lines.

    Args:
        summary: Scores in percent, as ``tasks.report.text_tables`` describes them.
        path: The picture to write; its suffix names the format.
        chance: WAR of guessing, in percent: 100 / C for balanced classes.
        colours: Model -> its colour, as ``drawing.model_colours`` gives them.

    Returns:
        The figure, already saved: a panel a split and, where known, one for modality.
    """
    models = summary["models"]
    panels = {
        f"{split_name(split)} split": {m: s[split] for m, s in models.items() if split in s}
        for split in dict.fromkeys(split for splits in models.values() for split in splits)
    }
    if summary.get("modality"):
        panels[MODALITY] = summary["modality"]
    panels = {title: bars for title, bars in panels.items() if bars}
    oracle = {f"{split_name(k)} split": s["war"] for k, s in summary.get("oracle", {}).items()}
    sizes = [len(bars) for bars in panels.values()]
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(1.2 + 1.0 * sum(sizes), 4.2), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=sizes)[0]
    for axes, (title, bars) in zip(row, panels.items(), strict=True):
        _draw_scores(axes, title, bars, colours)
        if title in oracle:
            axes.axhline(oracle[title], color=INK, linestyle="--", linewidth=1.3)
        axes.axhline(chance, color=INK, linestyle=":", linewidth=1.3)
    row[0].set(ylim=(0, 105), ylabel="WAR (%)")
    handles = [Line2D([], [], color=INK, linestyle=":", label=f"chance {chance:.1f}")]
    if oracle:
        handles.insert(0, Line2D([], [], color=INK, linestyle="--", label="oracle (true cues)"))
    handles.append(
        Line2D([], [], color=INK, linestyle="", marker="|", markersize=12, label="95% interval")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Weighted average recall (accuracy)")
    return save(figure, path)


@plain_text
def gain_waterfall(summary: Mapping[str, Any], split: str, path: Path) -> Figure:
    """Draw how one model's WAR becomes another's: the five differences, one after another.

    Args:
        summary: With a ``gain``, as ``summary.summarise`` makes it.
        split: Where the gain was measured.
        path: The picture to write; its suffix names the format.

    Returns:
        The figure, already saved.
    """
    first, second, parts = (summary["gain"][key] for key in ("from", "to", "parts"))
    shares = {name: 100 * parts[split][name] / parts[split]["num_clips"] for name in PARTS}
    start, end = (summary["models"][name][split]["war"] for name in (first, second))
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(8.6, 4.2), layout="constrained")
        axes = figure.subplots()
    axes.bar([0, len(PARTS) + 1], [start, end], 0.6, color="0.6")
    level, tops = start, [start]
    for i, share in enumerate(shares.values(), start=1):
        colour = sns.color_palette("colorblind")[0 if i == 1 else 2] if share >= 0 else "#b3423a"
        axes.bar(i, abs(share), 0.6, bottom=min(level, level + share), color=colour)
        axes.plot([i - 0.7, i + 0.3], [level, level], color=INK, linewidth=0.8)
        tops.append(max(level, level + share))
        level += share
    axes.plot([len(PARTS) + 0.3, len(PARTS) + 0.7], [level, level], color=INK, linewidth=0.8)
    values = [f"{start:.1f}", *(f"{share:+.1f}" for share in shares.values()), f"{end:.1f}"]
    for i, (top, value) in enumerate(zip([*tops, end], values, strict=True)):
        axes.annotate(value, (i, top), (0, 3), textcoords="offset points", ha="center", color=INK)
    names = [display_name(first), *PARTS.values(), display_name(second)]
    axes.set_xticks(range(len(names)), [_wrapped(name) for name in names])
    lowest = min(0.0, *(bar.get_y() for bar in axes.patches if isinstance(bar, Rectangle)))
    axes.set(ylim=(1.12 * lowest, 1.12 * max(*tops, end, 1.0)), ylabel="WAR (%)")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_title(f"What {names[-1]} adds to {names[0]} on {split_name(split)}")
    axes.grid(axis="x", visible=False)
    return save(figure, path)


def _draw_scores(
    axes: Axes, title: str, bars: Mapping[str, Any], colours: Mapping[str, Any]
) -> None:
    """Draw one bar for each name, with its value below it, where no interval or line crosses it."""
    scores = [bar["war"] for bar in bars.values()]
    shades = ["0.6" if title == MODALITY else colours[name] for name in bars]
    axes.bar(range(len(bars)), scores, 0.7, color=shades)
    for i, bar in enumerate(bars.values()):
        if "war_ci" in bar:
            lo, hi = bar["war_ci"]
            error = [[max(0.0, bar["war"] - lo)], [max(0.0, hi - bar["war"])]]
            axes.errorbar(i, bar["war"], yerr=error, color=INK, capsize=4, linewidth=1.3)
    names = [_wrapped(display_name(name)) for name in bars]
    axes.set_xticks(range(len(bars)), [f"{v:.1f}\n{n}" for v, n in zip(scores, names, strict=True)])
    axes.set_title(title)
    axes.grid(axis="x", visible=False)


def _wrapped(name: str) -> str:
    """Break a name into lines between words; shorten words that do not fit below a bar."""
    lines = textwrap.wrap(name, BAR_CHARS, break_long_words=False, break_on_hyphens=False)
    return "\n".join(shortened(lines, limit=BAR_CHARS)) if lines else name


def _draw_panel(
    axes: Axes, key: str, curves: Mapping[str, np.ndarray], colours: Mapping[str, Any]
) -> None:
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, color=colours[name], alpha=0.3, linewidth=0.8)
        # a window centred on each point, so that the mean does not lag; cut short at the ends
        window = 2 * round(SMOOTHING_SHARE * len(values) / 2) + 1
        means = pd.Series(values).rolling(window, center=True, min_periods=1).mean()
        axes.plot(steps, means, color=colours[name], linewidth=2)
    title, unit = (SFT_PANELS | RL_PANELS)[key]
    axes.set_title(title)
    axes.set(xlabel="step", ylabel=unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _curves_by_panel(
    runs: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, dict[str, np.ndarray]]:
    """Sort the values by panel, then run: [2, K] steps and values. No panel is empty."""
    panels: dict[str, dict[str, np.ndarray]] = {key: {} for key in SFT_PANELS | RL_PANELS}
    for name, records in runs.items():
        is_rl = any("reward" in record for record in records)
        for key in RL_PANELS if is_rl else SFT_PANELS:
            points = {r["step"]: r[key] for r in records if r.get(key) is not None}
            kept = [(step, value) for step, value in sorted(points.items()) if math.isfinite(value)]
            if kept:
                panels[key][name] = np.asarray(kept, dtype=float).T
    return {key: curves for key, curves in panels.items() if curves}
