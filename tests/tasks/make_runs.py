"""Run folders as a sweep leaves them, made without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni_rlvr.record import append_jsonl, write_json
from omni_rlvr.tasks.evaluate import score

LABELS = ["happy", "sad"]


def make_run(
    folder: Path,
    right: Sequence[bool],
    *,
    config: dict[str, Any] | None = None,
    seed: int = 0,
    status: str = "finished",
    split: str = "test",
    labels: Sequence[str] = LABELS,
    first_clip: int = 0,
) -> Path:
    """Makes a run that answered ``right`` clip by clip; clips are happy and sad in turn."""
    base = {"task": {"name": "train"}, "seed": seed, "name": "x", "paths": {"output_root": "o"}}
    (folder / split).mkdir(parents=True)
    times = {"started": "2026-01-01T12:00:00", "ended": "2026-01-01T12:01:30"}
    record = {"status": status, "commit": "abc", "seed": seed, "config": base | (config or {})}
    write_json(folder / "run.json", record | times)
    rows = []
    for i, good in enumerate(right):
        label = labels[i % 2]
        predicted = label if good else labels[1 - i % 2]
        rows.append(
            {"id": f"{first_clip + i}.mp4", "label": label, "predicted": predicted}
            | {"correct": good, "well_formed": True}
        )
    append_jsonl(folder / split / "predictions.jsonl", rows)
    write_json(folder / split / "metrics.json", score(rows, labels, num_resamples=10))
    curve = [{"step": i, "reward": 0.5 * i, "kl": 0.1, "loss": 1.0} for i in (1, 2)]
    append_jsonl(folder / "metrics.jsonl", curve)
    return folder


def weight(value: float) -> dict[str, Any]:
    """A config with a format weight."""
    return {"reward": {"weights": {"format": value}}}
