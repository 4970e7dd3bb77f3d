"""Find runs of task=attribute and read their files, one ``Attribution`` a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.tasks.report.gather import names_of, paths_of
from omni_rlvr.types import UserError


@dataclass(frozen=True)
class Attribution:
    """The results of one split."""

    name: str
    """Unique name on the page: the split, with the run's folder if there are several runs."""
    config: dict[str, Any]
    """The run's resolved config."""
    commit: str | None
    report: dict[str, Any]
    """attribution.json."""
    clips: dict[str, dict[str, Any]]
    """Clip -> its row of attribution.parquet."""
    distributions: dict[str, dict[str, dict[str, float]]]
    """Clip -> subset -> label (and "outside") -> probability, for selected clips."""
    selection: list[dict[str, Any]]
    """chosen.jsonl: the selected clips; empty where none were selected."""
    completions: dict[str, list[dict[str, Any]]]
    """Clip -> its sampled completions, for selected clips."""


def gather_attributions(places: Sequence[str]) -> list[Attribution]:
    """Read runs of task=attribute.

    Args:
        places: Runs, folders of runs, or globs of either.

    Raises:
        UserError: A place has no such run, or a file of one cannot be read.
    """
    found: dict[Path, None] = {}
    for place in places:
        files = [f for path in paths_of(place) for f in path.resolve().rglob("attribution.json")]
        if not files:
            raise UserError(
                f"runs={place}: html=true makes a page of runs of task=attribute, and there is "
                "none; omni-rlvr +experiment=attribute makes one"
            )
        found |= dict.fromkeys(sorted(file.parent for file in files))
    several = len({folder.parent for folder in found}) > 1
    names = names_of(list(found)) if several else [folder.name for folder in found]
    return [_read(name, folder) for name, folder in zip(names, found, strict=True)]


def _read(name: str, folder: Path) -> Attribution:
    try:
        record = read_json(folder.parent / "run.json")
        report = read_json(folder / "attribution.json")
        table = pd.read_parquet(folder / "attribution.parquet")
        spread = pd.read_parquet(folder / "distributions.parquet")
        selection = read_jsonl(folder / "chosen.jsonl")
        sampled = read_jsonl(folder / "completions.jsonl")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: the files of task=attribute cannot be read: {error}; run the task again"
        ) from error
    known = [row["id"] for row in selection]
    table, spread = table[table["clip"].isin(known)], spread[spread["clip"].isin(known)]
    distributions: dict[str, dict[str, dict[str, float]]] = {}
    for row in spread.to_dict("records"):
        values = {name: row[name] for name in (*report["labels"], "outside")}
        distributions.setdefault(row["clip"], {})[row["subset"]] = values
    return Attribution(
        name=name,
        config=record["config"],
        commit=record["commit"],
        report=report,
        clips={row["clip"]: row for row in table.to_dict("records")},
        distributions=distributions,
        selection=selection,
        completions={clip: [row for row in sampled if row["id"] == clip] for clip in known},
    )
