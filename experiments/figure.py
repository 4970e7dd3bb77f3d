"""Draw the panels of a study's figure: scores as dots, curves with a faint line for each seed.

Colours are the Okabe-Ito set, which colour-blind readers can distinguish; settings differ in their
line style too. A study passes the names of its settings, in order.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "0.25"


@dataclass(frozen=True)
class Look:
    """How a setting is drawn and called."""

    name: str
    colour: str
    line: str = "-"


Looks = Mapping[Hashable, Look]


def looks(names: Mapping[Hashable, str], lines: Sequence[str] = ("-",)) -> Looks:
    """Gives every setting a colour, and the line styles in turn."""
    return {
        setting: Look(name, OKABE_ITO[i % len(OKABE_ITO)], lines[i % len(lines)])
        for i, (setting, name) in enumerate(names.items())
    }


def dots(axes: Axes, values: pd.DataFrame, of: Looks, xlabel: str) -> None:
    """Draws a row a setting: a dot a seed, a bar at the mean. ``values``: see ``paired.final``."""
    for place, (setting, look) in enumerate(of.items()):
        if setting not in values.index:
            continue
        seeds = values.loc[setting].dropna()
        axes.plot(seeds, [place] * len(seeds), "o", color=look.colour, alpha=0.7, markersize=5)
        axes.plot(seeds.mean(), place, "|", color=INK, markersize=15, markeredgewidth=2)
    axes.set_yticks(range(len(of)), [look.name for look in of.values()])
    axes.set_ylim(len(of) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", alpha=0.3)
    _bare(axes)


def curves(axes: Axes, frame: pd.DataFrame, by: str, of: Looks, metric: str, ylabel: str) -> None:
    """Draws a metric over steps: the mean of a setting's seeds, and each seed faintly."""
    rows = frame[(frame.metric == metric) & frame.step.notna()]
    for setting, look in of.items():
        own = rows[rows[by] == setting]
        for _, one in own.groupby("seed"):
            axes.plot(one.step, one.value, look.line, color=look.colour, alpha=0.25, linewidth=0.8)
        mean = own.groupby("step").value.mean()
        axes.plot(mean.index, mean, look.line, color=look.colour, linewidth=2)
    axes.set(xlabel="step", ylabel=ylabel)
    axes.grid(alpha=0.3)
    _bare(axes)


def legend(figure: Figure, of: Looks, columns: int) -> None:
    """Names the lines once, below all panels."""
    figure.legend(handles=_lines(of), loc="outside lower center", ncols=columns, frameon=False)


def key(axes: Axes, of: Looks) -> None:
    """Names the lines of a row of panels, to the right of its last one."""
    place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    axes.legend(handles=_lines(of), frameon=False, fontsize=9, **place)


def save(figure: Figure, path: Path) -> None:
    """Writes the picture."""
    figure.savefig(path, dpi=130)


def _lines(of: Looks) -> list[Line2D]:
    return [
        Line2D([], [], color=look.colour, linestyle=look.line, linewidth=2, label=look.name)
        for look in of.values()
    ]


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)
