"""Test runs against each other, clip by clip on the same test sets.

Runs are tested against a named baseline; ``resolution`` says which differences are beyond chance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import pandas as pd
import torch

from omni_rlvr.functional.bootstrap import (
    holm,
    mcnemar_exact,
    mean_interval,
    resolvable_difference,
)
from omni_rlvr.tasks.report.columns import SEED, Row, label
from omni_rlvr.tasks.report.gather import RunData
from omni_rlvr.types import UserError

CONFIDENCE = 0.95
MAX_COMPARED = 12
"""Number of best rows of a table that are compared with one another for its resolution."""


@dataclass(frozen=True)
class Pair:
    """A run and the baseline run that it is tested against."""

    run: RunData
    values: Row
    """The run's values of the keys that differ."""
    baseline: RunData


@dataclass(frozen=True)
class PairedSplit:
    """The differences of all pairs on one split."""

    split: str
    pairs: Sequence[Pair]
    differences: torch.Tensor
    """[K, N] 1 where only the run was right, -1 where only its baseline was, 0 elsewhere."""


def pair_with_baseline(
    runs: Sequence[RunData], keys: Sequence[str], values: Sequence[Row], baseline: str
) -> list[Pair]:
    """Find for each finished run the baseline run to test it against.

    A run's name makes that run the baseline of all others. With COLUMN:VALUE, a run's baseline is
    the run with that value which agrees in all other columns; else the one with the same seed; else
    the only one. A run without a baseline is left out.

    Raises:
        UserError: no run is the baseline, or no other run can be paired with it.
    """
    column, value = _column_of(baseline, keys, runs)
    done = [(r, v) for r, v in zip(runs, values, strict=True) if r.finished]
    if column is None:
        base = _run_named(baseline, runs)
        return [Pair(run, row, base) for run, row in done if run is not base]
    bases = [(r, v) for r, v in done if _same(v[column], value)]
    if not bases:
        known = ", ".join(sorted({str(row[column]) for row in values}))
        raise UserError(f"task.baseline={baseline}: no finished run has it; {column} is {known}")
    others = [(r, v, _partner(v, column, bases)) for r, v in done if not _same(v[column], value)]
    pairs = [Pair(run, row, partner) for run, row, partner in others if partner is not None]
    if not pairs:
        raise UserError(
            f"task.baseline={baseline}: no finished run can be paired with one of the baseline's; "
            "their seeds or other keys differ; name one run instead"
        )
    return pairs


def paired_splits(pairs: Sequence[Pair]) -> list[PairedSplit]:
    """Read predictions and take the differences clip by clip, for each split that both have.

    Raises:
        UserError: two runs were not tested on the same clips.
    """
    out = []
    for split in dict.fromkeys(s for pair in pairs for s in pair.run.scores):
        both = [p for p in pairs if split in p.run.scores and split in p.baseline.scores]
        if not both:
            continue
        runs = {run.name: run for pair in both for run in (pair.baseline, pair.run)}
        right = {name: run.correct(split) for name, run in runs.items()}
        first = both[0].baseline.name
        for name, clips in right.items():
            if odd := clips.keys() ^ right[first].keys():
                raise UserError(
                    f"runs: {name} and {first} were not tested on the same clips of {split} "
                    f"({len(clips)} and {len(right[first])}; {min(odd)} is in one only): "
                    "no paired test"
                )
        ids = sorted(right[first])
        scores = {name: torch.tensor([float(row[i]) for i in ids]) for name, row in right.items()}
        rows = [scores[pair.run.name] - scores[pair.baseline.name] for pair in both]
        out.append(PairedSplit(split, both, torch.stack(rows).double()))
    return out


def compare_runs(splits: Sequence[PairedSplit], *, num_resamples: int) -> pd.DataFrame:
    """Test each run against its baseline run.

    Args:
        splits: from ``paired_splits``.
        num_resamples: of the bootstrap intervals.

    Returns:
        A row a run and split: the WAR difference in points with its 95 % paired bootstrap interval,
        the clips that only one of the two got right, McNemar's exact p-value, and that p-value
        after Holm's correction for the number of rows.
    """
    rows: list[Row] = []
    for part in splits:
        points = _points(part.differences, num_resamples)
        for pair, difference, point in zip(part.pairs, part.differences, points, strict=True):
            row: Row = {"run": pair.run.name, "baseline": pair.baseline.name}
            better, worse = int((difference > 0).sum()), int((difference < 0).sum())
            row |= {"split": part.split, **point}
            row |= {"only run right": better, "only baseline right": worse}
            rows.append({**row, "p": mcnemar_exact(better, worse)})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p Holm"] = p
    return pd.DataFrame(rows)


def compare_settings(
    splits: Sequence[PairedSplit], keys: Sequence[str], *, num_resamples: int
) -> pd.DataFrame:
    """Test each setting against the baseline: per clip, the mean difference over seeds.

    Args:
        splits: from ``paired_splits``.
        keys: the keys that differ.
        num_resamples: of the bootstrap intervals.

    Returns:
        A row a setting and split: the mean WAR difference in points, its 95 % interval over clips
        (seeds are averaged, not resampled), and in how many pairs of runs the setting was ahead.
    """
    by = [key for key in keys if key != SEED]
    rows: list[Row] = []
    for part in splits:
        members: dict[str, list[int]] = {}
        for i, pair in enumerate(part.pairs):
            members.setdefault(label(pair.values, by), []).append(i)
        means = torch.stack([part.differences[own].mean(dim=0) for own in members.values()])
        points = _points(means, num_resamples)
        for (setting, own), point in zip(members.items(), points, strict=True):
            ahead = int((part.differences[own].mean(dim=1) > 0).sum())
            row: Row = {"setting": setting, "split": part.split, "runs": len(own), **point}
            rows.append({**row, "ahead": f"{ahead} of {len(own)}"})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Resolution:
    """The difference of two rows of a table above which it is more than chance."""

    points: float
    """Half the width of the widest 95 % interval of a difference of WAR between two rows."""
    num_clips: int
    num_seeds: int
    """The clips and seeds of that pair of rows."""
    left_out: int = 0
    """Rows that are in no pair: their seeds or clips differ, or they are not among the best."""


def resolution(rows: Mapping[str, Mapping[int, Mapping[str, bool]]]) -> Resolution | None:
    """Find how far two rows of a table must be apart for more than chance.

    Args:
        rows: Row -> seed -> clip -> whether it was answered right. The ``MAX_COMPARED`` best rows
            are compared with each other, on the clips that both have.

    Returns:
        None if no two rows have the same seeds and a clip in common, or no rows differ.
    """
    known = {name: seeds for name, seeds in rows.items() if seeds and all(seeds.values())}
    war = {
        name: sum(sum(clips.values()) / len(clips) for clips in seeds.values()) / len(seeds)
        for name, seeds in known.items()
    }
    best = sorted(known, key=lambda name: -war[name])[:MAX_COMPARED]
    found: list[Resolution] = []
    paired: set[str] = set()
    for name, other in combinations(best, 2):
        one, two = known[name], known[other]
        clips = [set(clips) for row in (one, two) for clips in row.values()]
        ids = sorted(set.intersection(*clips))
        if one.keys() != two.keys() or not ids:
            continue
        apart = [[float(one[s][i]) - float(two[s][i]) for i in ids] for s in one]
        half = resolvable_difference(torch.tensor(apart), confidence=CONFIDENCE)
        found.append(Resolution(100 * half, len(ids), len(one)))
        paired |= {name, other}
    widest = max(found, key=lambda one: one.points, default=None)
    if widest is None or widest.points == 0:
        return None
    return replace(widest, left_out=len(rows) - len(paired))


def _points(differences: torch.Tensor, num_resamples: int) -> list[dict[str, float]]:
    """Average each row of differences over clips, in points of WAR, with its 95 % interval."""
    _, low, high = mean_interval(
        differences.T, num_resamples=num_resamples, confidence=CONFIDENCE, seed=0
    )
    return [
        {"difference": 100 * row.mean().item(), "low": 100 * start, "high": 100 * end}
        for row, start, end in zip(differences, low.tolist(), high.tolist(), strict=True)
    ]


def _column_of(
    baseline: str, keys: Sequence[str], runs: Sequence[RunData]
) -> tuple[str | None, str]:
    """Split COLUMN:VALUE into column and value; there is no column where it is a run's name.

    The colon needs no quotes in Hydra's grammar; an equals sign does the same.
    """
    column, value = [*re.split("[:=]", baseline, maxsplit=1), ""][:2]
    if column == baseline or any(run.name == baseline for run in runs):
        return None, baseline
    found = [key for key in keys if key == column] or [k for k in keys if k.endswith(f".{column}")]
    found = found or [key for key in keys if key in (f"{column}.name", f"{column}.path")]
    if len(found) != 1:
        raise UserError(
            f"task.baseline={baseline}: {len(found)} columns are called {column}; "
            f"the columns are {', '.join(keys) or 'none: no key differs'}"
        )
    return found[0], value


def _run_named(baseline: str, runs: Sequence[RunData]) -> RunData:
    found = [run for run in runs if run.name == baseline]
    found = found or [run for run in runs if run.folder.name == baseline]
    if len(found) != 1 or not found[0].finished:
        names = ", ".join(run.name for run in runs[:10])
        raise UserError(
            f"task.baseline={baseline}: {len(found)} runs have this name, or it did not finish; "
            f"give COLUMN:VALUE or one of: {names}"
        )
    return found[0]


def _partner(values: Row, column: str, bases: Sequence[tuple[RunData, Row]]) -> RunData | None:
    same = [r for r, v in bases if all(v[k] == values[k] for k in v if k != column)]
    same = same or [r for r, v in bases if SEED in v and v[SEED] == values[SEED]]
    same = same or [r for r, _ in bases]
    return same[0] if len(same) == 1 else None


def _same(value: Any, text: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == float(value)
        except ValueError:
            return False
    return str(value).lower() == text.lower()
