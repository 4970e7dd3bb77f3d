"""A small chart of block characters, for the end of a training on a terminal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BLOCKS = " ▁▂▃▄▅▆▇█"
HEIGHT = 5
"""Lines of a chart, without its title."""
MARGIN = 11
"""Columns left of the curve, for its largest and its smallest value (-1.23e-05) and the axis."""


def chart(title: str, values: Sequence[float], width: int) -> list[str]:
    """Draw a curve as columns, each the mean of equally many values.

    Args:
        title: Stands above, with the first and the last column's value.
        values: The curve, from its start to its end; those that are not finite are left out.
        width: The number of columns of the whole chart.

    Returns:
        The lines, all of the given width, or none where there are fewer than two values.
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return []
    columns = _columns(finite, width - MARGIN)
    low, high = min(columns), max(columns)
    names = [f"{high:.3g}", *[""] * (HEIGHT - 2), f"{low:.3g}"]
    steps = HEIGHT * (len(BLOCKS) - 1)
    heights = [max(1, round((value - low) / ((high - low) or 1) * steps)) for value in columns]
    lines = [f"{title}: {columns[0]:.3g} at first, {columns[-1]:.3g} at last"]
    for row, name in enumerate(names):
        base = (HEIGHT - 1 - row) * (len(BLOCKS) - 1)
        cells = (BLOCKS[min(max(height - base, 0), len(BLOCKS) - 1)] for height in heights)
        lines.append(f"{name:>{MARGIN - 2}} ┤{''.join(cells)}")
    return [line[:width].ljust(width) for line in lines]


def _columns(values: Sequence[float], number: int) -> list[float]:
    """Average neighbours so that no more than this many values are left."""
    number = min(number, len(values))
    bounds = [round(i * len(values) / number) for i in range(number + 1)]
    parts = [values[a:b] for a, b in itertools.pairwise(bounds)]
    return [sum(part) / len(part) for part in parts]


def charts(curves: Sequence[tuple[str, Sequence[float]]], width: int) -> list[str]:
    """Draw several charts side by side."""
    gap = 4
    each = (width - gap * (len(curves) - 1)) // max(1, len(curves))
    drawn = [lines for title, values in curves if (lines := chart(title, values, each))]
    return [(" " * gap).join(row).rstrip() for row in zip(*drawn, strict=True)]
