"""The clock of all measurements: wall time, or processor time on a machine that others use too."""

from __future__ import annotations

import time

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""``cpu`` counts the seconds of all threads together: use it with one thread."""
_chosen = [CLOCKS["wall"]]


def choose(name: str) -> None:
    """Sets the clock for the whole process."""
    _chosen[0] = CLOCKS[name]


def now() -> float:
    """Seconds on the chosen clock."""
    return _chosen[0]()
