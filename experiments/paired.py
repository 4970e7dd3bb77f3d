"""Compare settings of a study seed by seed, from its results.csv, and write sentences about them.

A setting and the baseline share data order and sampling seeds, so their difference is taken within
each seed and then averaged. With few seeds the interval is wide (Student's t: 4.3 standard errors
at three seeds); if it includes 0, the difference is called "within the seeds' spread".
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import t as student

CONFIDENCE = 0.95
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


@dataclass(frozen=True)
class Difference:
    """A setting minus the baseline, over the seeds that both have."""

    mean: float
    low: float
    high: float
    """95 % interval over seeds; infinite for one seed."""
    ahead: int
    """Seeds in which it is above 0."""
    seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def final(frame: pd.DataFrame, metric: str, by: str) -> pd.DataFrame:
    """A metric's last value: a row a setting, a column a seed; NaN where a run is missing."""
    rows = frame[frame.metric == metric]
    last = rows[rows.step.isna() | (rows.step == rows.step.max())]
    return last.pivot_table(index=by, columns="seed", values="value", sort=False)


def difference(values: pd.DataFrame, setting: Hashable, baseline: Hashable) -> Difference:
    """Compares two rows of ``final``."""
    gaps = (values.loc[setting] - values.loc[baseline]).dropna()
    return interval(gaps.tolist())


def interval(gaps: Sequence[float]) -> Difference:
    """The mean of paired differences with its interval."""
    n = len(gaps)
    mean = sum(gaps) / n if n else float("nan")
    if n < 2:
        return Difference(mean, -float("inf"), float("inf"), int(mean > 0), n)
    std = (sum((gap - mean) ** 2 for gap in gaps) / (n - 1)) ** 0.5
    half = float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / n**0.5
    return Difference(mean, mean - half, mean + half, sum(gap > 0 for gap in gaps), n)


def cell(values: pd.Series, digits: int = 1) -> str:
    """``80.9 (81.2, 81.2, 80.4)``: the mean, then each seed; a dash for none."""
    seen = values.dropna()
    if seen.empty:
        return "-"
    seeds = ", ".join(f"{value:.{digits}f}" for value in seen)
    return f"{seen.mean():.{digits}f} ({seeds})" if len(seen) > 1 else seeds


def gap_cell(gap: Difference, digits: int = 1) -> str:
    """``+0.5 [-1.2, 2.2]``, in bold where the interval leaves 0 out."""
    if gap.seeds < 2:
        return f"{gap.mean:+.{digits}f}" if gap.seeds else "-"
    text = f"{gap.mean:+.{digits}f} [{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"
    return f"**{text}**" if gap.is_clear else text


def sentence(name: str, gap: Difference, unit: str, digits: int = 1) -> str:
    """Words a difference: how much, in how many seeds, and whether the spread allows to say so."""
    text = f"{name}: {gap.mean:+.{digits}f} {unit}".rstrip()
    text += f", higher in {gap.ahead} of {gap.seeds} seeds"
    if gap.seeds < 2:
        return f"{text}; one seed says nothing of the spread"
    ends = f"[{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"
    return f"{text}, 95 % {ends}" + ("" if gap.is_clear else ": within the seeds' spread")


def summary(values: pd.DataFrame, names: Mapping[Hashable, str], unit: str, digits: int = 1) -> str:
    """Words all settings against the first of ``names``: the ends of the range, and what is clear.

    Args:
        values: from ``final``.
        names: setting -> what it is called; the first is the baseline.
        unit: of the values.
        digits: after the point.
    """
    baseline, *others = [setting for setting in names if setting in values.index]
    gaps = {names[setting]: difference(values, setting, baseline) for setting in others}
    gaps = {name: gap for name, gap in gaps.items() if gap.seeds}
    if not gaps:
        return "nothing to compare yet"
    low, high = min(gaps, key=lambda n: gaps[n].mean), max(gaps, key=lambda n: gaps[n].mean)
    ends = [f"{gaps[name].mean:+.{digits}f} ({name})" for name in dict.fromkeys((low, high))]
    clear = [sentence(name, gap, unit, digits) for name, gap in gaps.items() if gap.is_clear]
    half = sum((gap.high - gap.low) / 2 for gap in gaps.values()) / len(gaps)
    said = "; ".join(clear) or f"none of {len(gaps)}"
    spread = f"± {half:.{digits}f} on average" if half < float("inf") else "one seed"
    reach = f"{' to '.join(ends)} {unit}".rstrip()
    return f"{reach}; clear of the seeds' spread ({spread}): {said}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A pipe table; all columns but the first stand to the right."""
    lines = [header, [":---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def bullets(lines: Sequence[str]) -> str:
    """A list, an item a line."""
    return "\n".join(f"- {line}" for line in lines)


def write_results(readme: Path, *parts: str) -> None:
    """Puts what was made of results.csv between the markers of a README, and prints it."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    body = "\n\n".join(parts)
    readme.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")
    print(body)
