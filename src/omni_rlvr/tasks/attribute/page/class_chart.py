"""Shapley values by class as an SVG that takes its colours from the page.

Horizontal bars from zero, one a player, and the interaction, with 95 % intervals. Nothing is
computed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, LABEL, RIGHT = 480, 92, 14
"""Of the picture, of the names on its left, of the space on its right; in its own units."""
BAR, GAP, AXIS = 9, 12, 34
ALL = "all clips"
NAMES = {"video": "picture", "audio": "sound", "text": "question", "interaction": "interaction"}
"""Key -> what a reader is told; also the class of its bars."""


def class_chart(report: Mapping[str, Any], *, unit: str) -> str:
    """Draws the chart of one split.

    Args:
        report: attribution.json.
        unit: of the values, from ``attribution.unit_of``.

    Returns:
        An ``<svg>``, or an empty text where no clip has both modalities.
    """
    groups = {ALL: report["all"], **report["by_class"]}
    groups = {name: group for name, group in groups.items() if group["num_whole"]}
    if not groups:
        return ""
    keys = [key for key in NAMES if value_of(next(iter(groups.values())), key) is not None]
    ends = [end for group in groups.values() for key in keys for end in _ends(group, key)]
    ticks = round_ticks(min(0.0, *ends), max(0.0, *ends))
    scale = (WIDTH - LABEL - RIGHT) / (ticks[-1] - ticks[0])

    def across(value: float) -> float:
        return round(LABEL + (value - ticks[0]) * scale, 1)

    step = BAR * len(keys) + GAP
    height = step * len(groups) + AXIS
    marks = [_tick(across(tick), tick, ticks, height - AXIS) for tick in ticks]
    bars = [
        _group(name, group, keys, step * i + GAP / 2, across)
        for i, (name, group) in enumerate(groups.items())
    ]
    middle = (LABEL + WIDTH - RIGHT) / 2
    named = f'<text class="tick" x="{middle}" y="{height - 2}">{unit}</text>'
    zero = f'<path class="zero" d="M{across(0)} 0V{height - AXIS}"/>'
    label = "Shapley values by gold class; the table below has the numbers"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">'
        + "".join([*marks, *bars, zero, named])
        + "</svg>"
    )


def value_of(group: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """The mean and interval of a player's Shapley value, or of the interaction."""
    return group.get(key if key == "interaction" else f"phi_{key}")


def _ends(group: Mapping[str, Any], key: str) -> list[float]:
    entry = value_of(group, key)
    return [] if entry is None else [entry["mean"], *entry["ci"]]


def _group(name: str, group: Mapping[str, Any], keys: Sequence[str], top: float, across) -> str:
    middle = top + BAR * len(keys) / 2
    parts = [
        f'<text class="name" x="{LABEL - 8}" y="{middle + 1}">{escape(_short(name))}</text>',
        f'<text class="count" x="{LABEL - 8}" y="{middle + 12}">n = {group["num_whole"]}</text>',
    ]
    for i, key in enumerate(keys):
        entry, y = value_of(group, key), top + BAR * i
        if entry is None:
            continue
        left, right = sorted((across(0), across(entry["mean"])))
        low, high = (across(end) for end in entry["ci"])
        size = f'width="{right - left:.1f}" height="{BAR - 2}"'
        parts += [
            f'<rect class="{key}" x="{left}" y="{y}" {size}/>',
            f'<path class="spread" d="M{low} {y + BAR / 2 - 1}H{high}"/>',
        ]
    return "".join(parts)


def _tick(x: float, value: float, ticks: Sequence[float], bottom: float) -> str:
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    text = f"{value:.{digits}f}".replace("-", "−")
    return (
        f'<path class="grid" d="M{x} 0V{bottom}"/>'
        f'<text class="tick" x="{x}" y="{bottom + 16}">{text}</text>'
    )


def round_ticks(low: float, high: float) -> list[float]:
    """Choose about five round numbers, of which the first and the last hold both ends."""
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(s * power for s in (1, 2, 5, 10) if span / (s * power) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _short(name: str) -> str:
    return name if len(name) <= 14 else name[:13] + "…"
