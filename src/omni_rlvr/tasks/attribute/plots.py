"""Draw what each modality did: Shapley values by class, clip by clip, and the swap test.

The numbers come from ``tables.py``; this file computes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omni_rlvr.tasks.report.drawing import INK, PALETTE, plain_text, save, shortened
from omni_rlvr.tasks.report.plots import MAX_NAME, name_classes

COLOURS = dict(zip(("video", "audio", "text"), sns.color_palette(PALETTE, 3), strict=True))
SWAPS = {"video": COLOURS["video"], "audio": COLOURS["audio"], "neither": "0.7"}
ALL = "all"
MAX_BARS_IN = 16.0
"""Widest panel of classes."""


@plain_text
def attribution_figure(
    table: pd.DataFrame, report: Mapping[str, Any], title: str, path: Path, *, unit: str
) -> Figure:
    """Draw phi by class (bars with 95 % intervals), phi of every clip (points), and the swaps.

    Args:
        table: from ``tables.clip_table``.
        report: ``all``, ``by_class`` and ``swap`` (or None) as the task writes them.
        title: names model, split and method.
        path: the picture to write.
        unit: of the Shapley values, from ``tables.unit_of``.

    Returns:
        The figure, already saved: two axes, and a third where sounds were swapped.
    """
    swap = report["swap"] if report["swap"] and report["swap"]["num_swaps"] else None
    widths = [min(MAX_BARS_IN, 1.1 * (len(report["by_class"]) + 2)), 5.0, *([2.6] if swap else [])]
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(sum(widths), 4.6), layout="constrained")
        row = figure.subplots(1, len(widths), width_ratios=widths)
    _draw_bars(row[0], report, widths[0], unit)
    _draw_clips(row[1], table, unit)
    if swap:
        axes = row[2]
        means = np.array([100 * swap[kind]["mean"] for kind in SWAPS])
        ends = np.array([swap[kind]["ci"] for kind in SWAPS])
        axes.bar(range(len(SWAPS)), means, 0.7, color=[*SWAPS.values()])
        spread = np.abs(100 * ends.T - means)
        axes.errorbar(
            range(len(SWAPS)), means, spread, fmt="none", ecolor=INK, capsize=4, linewidth=1.2
        )
        axes.set_xticks(range(len(SWAPS)), [*SWAPS])
        axes.grid(axis="x", visible=False)
        axes.set(ylim=(0, 105), ylabel="% of swaps", title="Swapped sound: follows")
    figure.suptitle(title)
    return save(figure, path, tight=False)


def _draw_bars(axes: Axes, report: Mapping[str, Any], width_in: float, unit: str) -> None:
    groups = {ALL: report["all"], **report["by_class"]}
    groups = {name: group for name, group in groups.items() if group["num_whole"]}
    bars = [p for p in COLOURS if any(f"phi_{p}" in group for group in groups.values())]
    width = 0.8 / (len(bars) + 1)
    for i, name in enumerate([*bars, "interaction"]):
        key = name if name == "interaction" else f"phi_{name}"
        means = np.array([group[key]["mean"] for group in groups.values()])
        ends = np.array([group[key]["ci"] for group in groups.values()]).reshape(-1, 2)
        places = np.arange(len(groups)) + (i - len(bars) / 2) * width
        axes.bar(places, means, width, label=name, color=COLOURS.get(name, "0.75"))
        spread = np.abs(ends.T - means)
        axes.errorbar(places, means, spread, fmt="none", ecolor=INK, capsize=2, linewidth=1)
    axes.axhline(0, color=INK, linewidth=1)
    short = shortened(list(groups), limit=MAX_NAME)
    counts = [group["num_whole"] for group in groups.values()]
    names = [f"{name}\n({count})" for name, count in zip(short, counts, strict=True)]
    name_classes(axes, names, (width_in - 1.0) / len(groups))
    axes.grid(axis="x", visible=False)
    axes.set(
        ylabel=f"Shapley value for the gold label ({unit})", title="By gold class, 95 % intervals"
    )
    axes.legend(ncols=len(bars) + 1, frameon=False, fontsize=9)


def _draw_clips(axes: Axes, table: pd.DataFrame, unit: str) -> None:
    right = table.predicted == table.label
    for hit, marker, name in ((True, "o", "answered right"), (False, "x", "answered wrong")):
        part = table[right == hit]
        colour = INK if hit else "tab:red"
        axes.scatter(
            part.phi_audio, part.phi_video, s=14, color=colour, marker=marker, alpha=0.6, label=name
        )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axline((0, 0), slope=1, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel=f"Shapley value of the sound ({unit})")
    axes.set(ylabel=f"Shapley value of the picture ({unit})")
    axes.set_title("Every clip; dotted: both alike")
    axes.legend(frameon=False, fontsize=9)
