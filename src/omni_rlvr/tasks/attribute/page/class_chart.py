"""Draw Shapley values by class as an SVG that takes its colours from the page.

Horizontal bars begin at zero, one for each player and one for the interaction, with 95 % intervals.
This file computes coordinates; the template ``chart.svg`` draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from omni_rlvr.text.templates import templates

WIDTH, LABEL, RIGHT = 480, 92, 14
"""Widths of the picture, of the names on its left and of the space on its right, in SVG units."""
BAR, GAP, AXIS = 9, 12, 34
ALL = "all clips"
NAMES = {"video": "picture", "audio": "sound", "text": "question", "interaction": "interaction"}
"""Key (also the CSS class of its bars) -> name in the chart."""


def class_chart(report: Mapping[str, Any], *, unit: str) -> Markup:
    """Draw the chart of one split.

    Args:
        report: The content of attribution.json.
        unit: The unit of the values, from ``attribution.unit_of``.

    Returns:
        An ``<svg>``, or an empty text if no clip has both modalities.
    """
    groups = {ALL: report["all"], **report["by_class"]}
    groups = {name: group for name, group in groups.items() if group["num_whole"]}
    if not groups:
        return Markup()
    first = next(iter(groups.values()))
    keys = [key for key in NAMES if value_of(first, key) is not None]
    values = [value_of(group, key) for group in groups.values() for key in keys]
    ends = [end for entry in values if entry for end in (entry["mean"], *entry["ci"])]
    ticks = round_ticks(min(0.0, *ends), max(0.0, *ends))
    scale = (WIDTH - LABEL - RIGHT) / (ticks[-1] - ticks[0])

    def across(value: float) -> float:
        return round(LABEL + (value - ticks[0]) * scale, 1)

    step = BAR * len(keys) + GAP
    height = step * len(groups) + AXIS
    drawn = []
    for i, (name, group) in enumerate(groups.items()):
        top, bars = step * i + GAP / 2, []
        for k, key in enumerate(keys):
            y = top + BAR * k
            if entry := value_of(group, key):
                left, right = sorted((across(0), across(entry["mean"])))
                low, high = map(across, entry["ci"])
                bar = {"key": key, "left": left, "top": y, "width": f"{right - left:.1f}"}
                bars.append({**bar, "low": low, "high": high, "middle": y + BAR / 2 - 1})
        short = name if len(name) <= 14 else name[:13] + "…"
        row = {"name": short, "num_clips": group["num_whole"], "bars": bars}
        drawn.append({**row, "middle": top + BAR * len(keys) / 2})
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    chart = templates(Path(__file__).with_name("page_parts")).get_template("chart.svg")
    return Markup(
        chart.render(
            width=WIDTH,
            height=height,
            bottom=height - AXIS,
            names_end=LABEL - 8,
            middle=(LABEL + WIDTH - RIGHT) / 2,
            zero=across(0),
            unit=unit,
            ticks=[(across(tick), f"{tick:.{digits}f}".replace("-", "−")) for tick in ticks],
            groups=drawn,
            bar_height=BAR - 2,
        )
    )


def value_of(group: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Return the mean and interval of a player's Shapley value, or of the interaction."""
    return group.get(key if key == "interaction" else f"phi_{key}")


def round_ticks(low: float, high: float) -> list[float]:
    """Choose about five equally spaced round numbers whose range includes ``low`` and ``high``."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(s * power for s in (1, 2, 5, 10) if span / (s * power) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]
