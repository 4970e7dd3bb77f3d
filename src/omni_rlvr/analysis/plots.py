"""The figures of a study: confusion, learning curves, recall per class, scores with intervals.

Every function draws on a Figure of its own (no pyplot state, no display needed), saves it to
``path`` and returns it. Sizes grow with what is shown, so that no label is clipped. Nothing is
computed here but the running mean of the curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from omni_rlvr.analysis.tables import SPLITS, display_name

DPI = 150
PALETTE = "colorblind"
INK = "0.25"
MODALITY = "by modality"

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
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100.0 * counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = 2.6 + 0.55 * len(labels)
    figure = Figure(figsize=(side + 0.9, side - 0.7), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(
        shares,
        ax=axes,
        annot=counts,
        fmt="d",
        annot_kws={"size": 9},
        cmap="Blues",
        vmin=0,
        vmax=100,
        square=True,
        linewidths=0.5,
        linecolor="0.92",
        xticklabels=[*labels, "other"],
        yticklabels=[f"{label} ({n})" for label, n in zip(labels, totals[:, 0], strict=True)],
        cbar_kws={"label": "% of the gold class", "shrink": 0.75},
    )
    axes.axvline(len(labels), color=INK, linewidth=1.5)
    axes.set_xticklabels(axes.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    axes.set(xlabel="answered", ylabel="gold (samples)")
    axes.set_title(title)
    return _save(figure, path)


def learning_curves(runs: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> Figure:
    """Draw one panel a metric: raw values faint, their running mean bold, one colour a run.

    A run with a ``reward`` is RL and shows reward, accuracy, format, KL and length; any other is
    SFT and shows its loss. A panel that no run has values for is left out.

    Args:
        runs: Name of the run -> the records of its metrics.jsonl, each with a ``step``. Where a
            step comes twice (a resumed run), the later record counts.
        path: The picture to write; its suffix names the format.

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
    colours = dict(zip(runs, sns.color_palette(PALETTE, len(runs)), strict=True))
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(4.2 * num_columns, 2.9 * num_rows + 0.4), layout=layout)
        grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axes, (key, curves) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, key, curves, colours)
    for axes in grid[len(panels) :]:
        axes.remove()
    if len(runs) > 1:
        handles = [
            Line2D([], [], color=colour, linewidth=2, label=display_name(name))
            for name, colour in colours.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    names = "" if len(runs) > 1 else f" of {display_name(next(iter(runs)))}"
    figure.suptitle(f"Learning curves{names}\nfaint: every record, bold: running mean")
    return _save(figure, path)


def recall_bars(
    recalls: Mapping[str, Sequence[float] | torch.Tensor], labels: Sequence[str], path: Path
) -> Figure:
    """Draw the recall of each class, one bar a model.

    Args:
        recalls: Model -> C fractions in [0, 1], as ``per_class_recall`` gives them. A class that is
            NaN for every model is marked as having no samples.
        labels: C class names.
        path: The picture to write; its suffix names the format.

    Returns:
        The figure, already saved; its axis is in percent.
    """
    fractions = np.stack([torch.as_tensor(v, device="cpu").double() for v in recalls.values()])
    width = 0.8 / len(recalls)
    colours = sns.color_palette(PALETTE, len(recalls))
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(2.0 + len(labels) * max(0.8, 0.26 * len(recalls)), 4.0))
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
    centres = np.arange(len(labels))
    for i, model in enumerate(recalls):
        offset = (i - (len(recalls) - 1) / 2) * width
        heights = fractions[i] * 100
        axes.bar(centres + offset, heights, width, color=colours[i], label=display_name(model))
    for i in np.flatnonzero(np.isnan(fractions).all(axis=0)).tolist():
        axes.text(i, 2, "no\nsamples", ha="center", va="bottom", fontsize=8, color=INK)
    axes.set_xticks(centres, labels)
    if max(map(len, labels)) > 9:
        axes.tick_params(axis="x", rotation=30)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    names = "" if len(recalls) > 1 else f" of {display_name(next(iter(recalls)))}"
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set(ylim=(0, 105), ylabel="recall (%)", title=f"Recall per class{names}")
    axes.grid(axis="x", visible=False)
    if len(recalls) > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return _save(figure, path)


def summary_bars(summary: Mapping[str, Any], path: Path, *, chance: float) -> Figure:
    """Draw WAR by model on each split, and by modality, with the oracle and chance as lines.

    Args:
        summary: Scores in percent, as ``analysis.tables`` describes them.
        path: The picture to write; its suffix names the format.
        chance: WAR of guessing, in percent: 100 / C for balanced classes.

    Returns:
        The figure, already saved: a panel a split and, where known, one for modality.
    """
    panels = {
        f"{SPLITS[split]} split": {m: s[split] for m, s in summary["models"].items() if split in s}
        for split in SPLITS
    }
    if summary.get("modality"):
        panels[MODALITY] = summary["modality"]
    panels = {title: bars for title, bars in panels.items() if bars}
    oracle = {
        f"{SPLITS[k]} split": scores["war"] for k, scores in summary.get("oracle", {}).items()
    }
    sizes = [len(bars) for bars in panels.values()]
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(1.2 + 1.0 * sum(sizes), 4.2), layout="constrained")
        row = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=sizes)[0]
    for axes, (title, bars) in zip(row, panels.items(), strict=True):
        _draw_scores(axes, title, bars, oracle=oracle.get(title), chance=chance)
    row[0].set(ylim=(0, 105), ylabel="WAR (%)")
    handles = [Line2D([], [], color=INK, linestyle=":", label=f"chance {chance:.1f}")]
    if oracle:
        handles.insert(0, Line2D([], [], color=INK, linestyle="--", label="oracle (true cues)"))
    handles.append(
        Line2D([], [], color=INK, linestyle="", marker="|", markersize=12, label="95% interval")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("Weighted average recall (accuracy)")
    return _save(figure, path)


def _draw_scores(
    axes: Axes, title: str, bars: Mapping[str, Any], *, oracle: float | None, chance: float
) -> None:
    """One bar a name; the value stands under the name, where no whisker or line can cross it."""
    scores = [bar["war"] for bar in bars.values()]
    by_model = title != MODALITY
    axes.bar(
        range(len(bars)),
        scores,
        0.7,
        color=sns.color_palette(PALETTE, len(bars)) if by_model else "0.6",
    )
    for i, bar in enumerate(bars.values()):
        if "war_ci" in bar:
            lo, hi = bar["war_ci"]
            error = [[max(0.0, bar["war"] - lo)], [max(0.0, hi - bar["war"])]]
            axes.errorbar(i, bar["war"], yerr=error, color=INK, capsize=4, linewidth=1.3)
    if oracle is not None:
        axes.axhline(oracle, color=INK, linestyle="--", linewidth=1.3)
    axes.axhline(chance, color=INK, linestyle=":", linewidth=1.3)
    names = [display_name(name).replace(" ", "\n", 1) for name in bars]
    axes.set_xticks(range(len(bars)), [f"{v:.1f}\n{n}" for v, n in zip(scores, names, strict=True)])
    axes.set_title(title)
    axes.grid(axis="x", visible=False)


def _draw_panel(
    axes: Axes, key: str, curves: Mapping[str, np.ndarray], colours: Mapping[str, Any]
) -> None:
    for name, curve in curves.items():
        steps, values = curve
        axes.plot(steps, values, color=colours[name], alpha=0.3, linewidth=0.8)
        axes.plot(steps, _running_mean(values), color=colours[name], linewidth=2)
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


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a window centred on each point (cut short at the ends), so that it does not lag."""
    half = round(SMOOTHING_SHARE * len(values) / 2)
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.asarray([window.mean() for window in windows])


def _save(figure: Figure, path: Path) -> Figure:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, bbox_inches="tight")
    return figure
