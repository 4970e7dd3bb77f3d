"""Tests runs against a named baseline, clip by clip on the same test sets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from omni_rlvr.functional.bootstrap import bootstrap_interval, holm, mcnemar_exact
from omni_rlvr.tasks.report.columns import SEED, Row, label
from omni_rlvr.tasks.report.gather import RunData
from omni_rlvr.types import UserError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Pair:
    """A run and the baseline run that it is tested against."""

    run: RunData
    values: Row
    """The run's values of the keys that differ."""
    baseline: RunData


@dataclass(frozen=True)
class PairedSplit:
    """What all pairs did on one split."""

    split: str
    pairs: Sequence[Pair]
    differences: torch.Tensor
    """[K, N] 1 where only the run was right, -1 where only its baseline was, 0 elsewhere."""


def pair_with_baseline(
    runs: Sequence[RunData], keys: Sequence[str], values: Sequence[Row], baseline: str
) -> list[Pair]:
    """Finds for each finished run the baseline run to test it against.

    With a run's name, that run for all. With COLUMN:VALUE, the run with that value which agrees in
    all other columns; else the one with the same seed; else the only one. A run without one is left
    out.

    Raises:
        UserError: no run is the baseline, or no other run can be paired with it.
    """
    column, value = _column_of(baseline, keys, runs)
    if column is None:
        chosen = _run_named(baseline, runs)
        return [
            Pair(run, row, chosen)
            for run, row in zip(runs, values, strict=True)
            if run.finished and run is not chosen
        ]
    done = [(r, v) for r, v in zip(runs, values, strict=True) if r.finished]
    bases = [(r, v) for r, v in done if _same(v[column], value)]
    if not bases:
        known = ", ".join(sorted({str(row[column]) for row in values}))
        raise UserError(f"task.baseline={baseline}: no finished run has it; {column} is {known}")
    others = [(r, v, _partner(v, column, bases)) for r, v in done if not _same(v[column], value)]
    pairs = [Pair(run, row, base) for run, row, base in others if base is not None]
    if not pairs:
        raise UserError(
            f"task.baseline={baseline}: no finished run can be paired with one of the baseline's; "
            "their seeds or other keys differ; name one run instead"
        )
    return pairs


def paired_splits(pairs: Sequence[Pair]) -> list[PairedSplit]:
    """Reads predictions and takes the differences clip by clip, for each split that both have.

    Raises:
        UserError: two runs were not tested on the same clips.
    """
    out = []
    for split in dict.fromkeys(s for pair in pairs for s in pair.run.scores):
        both = [p for p in pairs if split in p.run.scores and split in p.baseline.scores]
        if not both:
            continue
        first = both[0].baseline
        runs = {run.name: run for pair in both for run in (pair.baseline, pair.run)}
        right = {name: run.correct(split) for name, run in runs.items()}
        ids = sorted(right[first.name])
        for name in runs:
            _check_same_clips(split, runs[name], right[name], first, ids)
        scores = {name: torch.tensor([float(row[i]) for i in ids]) for name, row in right.items()}
        rows = [scores[pair.run.name] - scores[pair.baseline.name] for pair in both]
        out.append(PairedSplit(split, both, torch.stack(rows).double()))
    return out


def compare_runs(splits: Sequence[PairedSplit], *, num_resamples: int) -> pd.DataFrame:
    """Tests each run against its baseline run.

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
        low, high = _interval(part.differences, num_resamples)
        for i, pair in enumerate(part.pairs):
            better = int((part.differences[i] > 0).sum())
            worse = int((part.differences[i] < 0).sum())
            rows.append(
                {
                    "run": pair.run.name,
                    "baseline": pair.baseline.name,
                    "split": part.split,
                    "difference": 100 * part.differences[i].mean().item(),
                    "low": low[i],
                    "high": high[i],
                    "only run right": better,
                    "only baseline right": worse,
                    "p": mcnemar_exact(better, worse),
                }
            )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p Holm"] = p
    return pd.DataFrame(rows)


def compare_settings(
    splits: Sequence[PairedSplit], keys: Sequence[str], *, num_resamples: int
) -> pd.DataFrame:
    """Tests each setting against the baseline: per clip, the mean difference over seeds.

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
        names = [label(pair.values, by) for pair in part.pairs]
        settings = list(dict.fromkeys(names))
        members = [[i for i, name in enumerate(names) if name == s] for s in settings]
        means = torch.stack([part.differences[chosen].mean(dim=0) for chosen in members])
        low, high = _interval(means, num_resamples)
        for k, chosen in enumerate(members):
            ahead = int((part.differences[chosen].mean(dim=1) > 0).sum())
            rows.append(
                {
                    "setting": settings[k],
                    "split": part.split,
                    "runs": len(chosen),
                    "difference": 100 * means[k].mean().item(),
                    "low": low[k],
                    "high": high[k],
                    "ahead": f"{ahead} of {len(chosen)}",
                }
            )
    return pd.DataFrame(rows)


def _check_same_clips(
    split: str, run: RunData, right: Mapping[str, bool], baseline: RunData, ids: Sequence[str]
) -> None:
    if right.keys() != set(ids):
        odd = min(right.keys() ^ set(ids))
        raise UserError(
            f"runs: {run.name} and {baseline.name} were not tested on the same clips of {split} "
            f"({len(right)} and {len(ids)}; {odd} is in one only): no paired test"
        )


def _interval(differences: torch.Tensor, num_resamples: int) -> tuple[list[float], list[float]]:
    _, low, high = bootstrap_interval(
        differences.T,
        lambda sums: sums / differences.shape[1],
        num_resamples=num_resamples,
        confidence=CONFIDENCE,
        seed=0,
    )
    return (100 * low).tolist(), (100 * high).tolist()


def _column_of(
    baseline: str, keys: Sequence[str], runs: Sequence[RunData]
) -> tuple[str | None, str]:
    """The column and value of COLUMN:VALUE; no column where it is a run's name.

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
            f"task.baseline={baseline}: {len(found)} runs are called so, or it did not finish; "
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
