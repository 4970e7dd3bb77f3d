"""Draw results.png from results.csv: python -m experiments.million_clips.plot"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figure import INK, OKABE_ITO

HERE = Path(__file__).parent
MILLION = 1_000_000
COMPARED = 100_000
"""Rows on which the start before and now were both measured."""
PARTS = (
    "read and check the manifest", "check the labels", "score the gold answers",
    "look for special tokens", "digest of the examples",
)  # fmt: skip
PLACES = (0.0, 0.25, 0.5, 0.75, 1.5)


def values(frame: pd.DataFrame, version: str, measure: str) -> dict[str, float]:
    """Part -> value on the largest manifest that it was measured on; a start's for a million."""
    rows = frame[(frame["version"] == version) & (frame["measure"] == measure)]
    return {
        row.part: row.value * (MILLION / row.rows if row.part in (*PARTS, "table") else 1)
        for row in rows.sort_values("rows").itertuples()
    }


def start_up(axes: Axes, frame: pd.DataFrame) -> None:
    for place, version in enumerate(("before", "now")):
        found, left = values(frame[frame["rows"] == COMPARED], version, "cpu_s"), 0.0
        for part, colour in zip(PARTS, OKABE_ITO, strict=False):
            label = part if place == 0 else None
            axes.barh(place, found[part], left=left, color=colour, label=label, height=0.6)
            left += found[part]
        axes.text(left + 4, place, f"{left:.0f} s", va="center", color=INK)
    axes.set_yticks([0, 1], ["before", "now"])
    axes.set_ylim(1.6, -0.6)
    axes.set_xlim(right=320)
    axes.set_xlabel("CPU seconds a million examples (of 100,000)")
    axes.set_title("Start of a rank, before the model", fontsize=10)
    axes.legend(fontsize=7, loc="lower right")


def memory(axes: Axes, frame: pd.DataFrame) -> None:
    found = values(frame, "now", "rss_mb")
    shown = {
        "table of examples": found["table"],
        "order of an epoch": 8 * MILLION / 2**20,
        "a data worker's own": found["data worker"],
    }
    for place, size in enumerate(shown.values()):
        axes.barh(place, size, color=OKABE_ITO[5], height=0.6)
        axes.text(size + 4, place, f"{size:.0f} MB", va="center", color=INK)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.set_ylim(2.6, -0.6)
    axes.set_xlim(0, 1.25 * max(shown.values()))
    axes.set_xlabel("MB for a million examples")
    axes.set_title("What stays in a rank's memory", fontsize=10)


def resume(axes: Axes, frame: pd.DataFrame) -> None:
    found = values(frame, "now", "cpu_s")
    for prefix, label, colour in (
        ("resume at epoch", "named by its number", OKABE_ITO[0]),
        ("drawn up to epoch", "after drawing those before", OKABE_ITO[1]),
    ):
        seconds = [1000 * found[f"{prefix} {place}"] for place in PLACES]
        axes.plot(PLACES, seconds, "o-", color=colour, label=label)
    axes.set_xlabel("epoch at which a run is resumed")
    axes.set_ylabel("ms to the first batch's numbers")
    axes.set_ylim(bottom=0)
    axes.set_title("Resume: the next batch of rank 5 of 64", fontsize=10)
    axes.legend(fontsize=8)


def main() -> None:
    frame = pd.read_csv(HERE / "results.csv")
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    for draw, axes in zip((start_up, memory, resume), figure.subplots(1, 3), strict=True):
        draw(axes, frame)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "results.png", dpi=110)


if __name__ == "__main__":
    main()
