"""Shapley values by class as an SVG that takes its colours from the page.

Horizontal bars from zero, one a player, and the interaction, with 95 % intervals. Here they are
placed; ``chart.svg`` draws them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from omni_rlvr.text.templates import templates

WIDTH, LABEL, RIGHT = 480, 92, 14
"""Of the picture, of the names on its left, of the space on its right; in its own units."""
BAR, GAP, AXIS = 9, 12, 34
ALL = "all clips"
NAMES = {"video": "picture", "audio": "sound", "text": "question", "interaction": "interaction"}
"""Key -> what a reader is told; also the class of its bars."""


def class_chart(report: Mapping[str, Any], *, unit: str) -> Markup:
    """Draw the chart of one split.

    Args:
        report: attribution.json.
        unit: of the values, from ``attribution.unit_of``.

    Returns:
        An ``<svg>``, or an empty text where no clip has both modalities.
    """
    groups = {ALL: report["all"], **report["by_class"]}
    groups = {name: group for name, group in groups.items() if group["num_whole"]}
    if not groups:
        return Markup()
    keys = [key for key in NAMES if value_of(next(iter(groups.values())), key) is not None]
    ends = [end for group in groups.values() for key in keys for end in _ends(group, key)]
    ticks = round_ticks(min(0.0, *ends), max(0.0, *ends))
    scale = (WIDTH - LABEL - RIGHT) / (ticks[-1] - ticks[0])

    def across(value: float) -> float:
        return round(LABEL + (value - ticks[0]) * scale, 1)

    step = BAR * len(keys) + GAP
    height = step * len(groups) + AXIS
    drawn = [
        {"name": _short(name), "num_clips": group["num_whole"], "middle": top + BAR * len(keys) / 2,
         "bars": _bars(group, keys, top, across)}
        for top, (name, group) in zip(
            (step * i + GAP / 2 for i in range(len(groups))), groups.items(), strict=True
        )
    ]  # fmt: skip
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
            ticks=[(across(tick), _tick_text(tick, ticks)) for tick in ticks],
            groups=drawn,
            bar_height=BAR - 2,
        )
    )


def value_of(group: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Return the mean and interval of a player's Shapley value, or of the interaction."""
    return group.get(key if key == "interaction" else f"phi_{key}")


def _ends(group: Mapping[str, Any], key: str) -> list[float]:
    entry = value_of(group, key)
    return [] if entry is None else [entry["mean"], *entry["ci"]]


def _bars(
    group: Mapping[str, Any], keys: Sequence[str], top: float, across: Callable[[float], float]
) -> list[dict[str, Any]]:
    """Place the bars of a class and their intervals."""
    bars = []
    for i, key in enumerate(keys):
        entry, y = value_of(group, key), top + BAR * i
        if entry is None:
            continue
        left, right = sorted((across(0), across(entry["mean"])))
        low, high = (across(end) for end in entry["ci"])
        place = {"left": left, "top": y, "width": f"{right - left:.1f}"}
        bars.append({"key": key, **place, "low": low, "high": high, "middle": y + BAR / 2 - 1})
    return bars


def _tick_text(value: float, ticks: Sequence[float]) -> str:
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{value:.{digits}f}".replace("-", "−")


def round_ticks(low: float, high: float) -> list[float]:
    """Choose about five round numbers, of which the first and the last hold both ends."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(s * power for s in (1, 2, 5, 10) if span / (s * power) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"
