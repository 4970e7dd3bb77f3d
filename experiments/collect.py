"""Write the scores and learning curves of a sweep's runs to one results.csv, a number a row.

    python -m experiments.collect --to results.csv --keys stage.loss_type -- OUT/objective/sweep

A row has the values of the keys, the seed, a metric, a step and a value. Scores of a split
(``test/war``, ``test/recall/happy``), ``seconds`` and ``steps`` have no step; a curve has the mean
over each tenth of the run, at the last step of the tenth. Runs are found and read as in
``task=report``; those that did not finish are listed and left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from omni_rlvr.assembly.compare import completed
from omni_rlvr.record import SCORES
from omni_rlvr.tasks.report.columns import in_order
from omni_rlvr.tasks.report.gather import RunData, check_labels, gather
from omni_rlvr.tasks.table import register

CURVES = (
    "reward", "rewards/accuracy/mean", "rewards/format/mean", "frac_reward_zero_std",
    "completions/mean_length", "completions/clipped_ratio", "kl", "entropy", "grad_norm",
    "clip_ratio/region_mean", "cispo_clip_ratio", "step_time", "loss",
)  # fmt: skip
PROBE = "modality/"
WINDOWS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="the csv to write")
    parser.add_argument("--keys", nargs="+", required=True, help="config keys that name a setting")
    parser.add_argument("runs", nargs="+", help="folders of runs")
    args = parser.parse_args()
    frame = collect(args.runs, args.keys)
    frame.to_csv(args.to, index=False, float_format="%.6g", lineterminator="\n")
    print(f"{args.to}: {len(frame)} rows of {frame[columns(args.keys)].drop_duplicates().shape[0]}")


def columns(keys: Sequence[str]) -> list[str]:
    """What the csv calls the keys: ``stage.loss_type`` is loss_type, ``modality.name`` modality."""
    names = [key.removesuffix(".name").rsplit(".", 1)[-1] for key in keys]
    return [*names, "seed"]


def collect(places: Sequence[str], keys: Sequence[str]) -> pd.DataFrame:
    """Reads all finished runs."""
    register()  # the schemas complete the configs of runs of earlier versions
    runs = in_order(gather(places, completed))
    check_labels(runs)
    for run in runs:
        if not run.finished:
            print(f"left out, {run.record['status']}: {run.name}")
    names = [*columns(keys), "metric", "step", "value"]
    rows = [
        (*(value_of(run, key) for key in keys), run.record["seed"], *row)
        for run in runs
        if run.finished
        for row in numbers(run)
    ]
    return pd.DataFrame(rows, columns=names).astype({"step": "Int64"})


def value_of(run: RunData, key: str) -> Any:
    """Reads a dotted key of a run's config."""
    value = run.record["config"]
    for name in key.split("."):
        value = value[name]
    return value


def numbers(run: RunData) -> Iterator[tuple[str, int | None, float]]:
    """Yields what a run reached and how it went: (metric, step, value)."""
    for split, scores in run.scores.items():
        for name in (*SCORES, "outside"):
            if name in scores:
                yield f"{split}/{name}", None, scores[name]
        for label, recall in scores["recall"].items():
            if recall is not None:
                yield f"{split}/recall/{label}", None, recall
    curve = run.curves()
    if run.seconds is not None:
        yield "seconds", None, run.seconds
    if curve:
        yield "steps", None, curve[-1]["step"]
        yield from windows(curve)


def windows(curve: Sequence[dict[str, Any]]) -> Iterator[tuple[str, int, float]]:
    """Yields the means over each tenth of a curve, where it has values there."""
    count = min(WINDOWS, len(curve))
    ends = [len(curve) * (i + 1) // count for i in range(count)]
    for start, end in zip([0, *ends], ends, strict=False):
        part = curve[start:end]
        for name in dict.fromkeys(name for row in part for name in row):
            values = [row[name] for row in part if row.get(name) is not None]
            if values and (name in CURVES or name.startswith(PROBE)):
                yield name, part[-1]["step"], sum(values) / len(values)


if __name__ == "__main__":
    main()
