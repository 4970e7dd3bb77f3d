"""Find runs and read their config, their status and their scores on every split.

A run is a folder with run.json that trained or was evaluated. A pipeline counts as the runs below
it. Curves and predictions are read when asked for, since they are large.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from omni_rlvr.functional.metrics import weighted_f1
from omni_rlvr.pointers import CHECKPOINT, LATEST, follow
from omni_rlvr.record import read_json, read_jsonl, read_record
from omni_rlvr.types import UserError

Complete = Callable[[Mapping[str, Any]], dict[str, Any]]
"""A function that adds options of later versions to a run's config, with their defaults."""
LAST_SHARE = 10
"""The end of training is the last tenth of its records."""


@dataclass(frozen=True)
class RunData:
    """A run's config, status and scores."""

    name: str
    """Unique: its folder below the folder that all runs share."""
    folder: Path
    record: dict[str, Any]
    """run.json, with the options that came after the run at their defaults."""
    scores: dict[str, dict[str, Any]]
    """Split name -> metrics.json, of the splits it was evaluated on."""

    @property
    def finished(self) -> bool:
        """Whether the run finished."""
        return self.record["status"] == "finished"

    @property
    def seconds(self) -> float | None:
        """The duration of the run; None if it did not end."""
        if "ended" not in self.record:
            return None
        times = (datetime.fromisoformat(self.record[key]) for key in ("started", "ended"))
        start, end = (time.astimezone() for time in times)  # older runs have no time zone
        return (end - start).total_seconds()

    def curves(self) -> list[dict]:
        """Read its metrics.jsonl."""
        return read_jsonl(self.folder / "metrics.jsonl")

    def last_values(self, names: Sequence[str]) -> dict[str, float]:
        """Average metrics over the end of training.

        If there is a reward, only that is returned: the loss of RL does not show progress.
        """
        rows = self.curves()
        rows = rows[-max(1, len(rows) // LAST_SHARE) :]
        found = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
        means = {name: sum(values) / len(values) for name, values in found.items() if values}
        return {"reward": means["reward"]} if "reward" in means else means

    def answers(self, split: str) -> list[dict[str, Any]]:
        """Read its predictions on a split; an empty list if the file is missing."""
        return read_jsonl(self.folder / split / "predictions.jsonl")

    def correct(self, split: str) -> dict[str, bool]:
        """Read which clips of a split it got right, by id."""
        return {row["id"]: row["correct"] for row in self.answers(split)}


def gather(places: Sequence[str], complete: Complete) -> list[RunData]:
    """Read runs.

    Args:
        places: runs, folders of runs, or globs of either.
        complete: makes configs of earlier versions comparable.

    Raises:
        UserError: a place does not exist or holds no run, or a run.json cannot be read.
    """
    folders: dict[Path, None] = {}
    for place in places:
        found = [folder for path in paths_of(place) for folder in runs_below(path)]
        if not found:
            raise UserError(
                f"runs={place}: there is no run, i.e. a folder with run.json that has scores; "
                "for runs of task=attribute, +html=true makes a page"
            )
        folders |= dict.fromkeys(found)
    names = names_of(list(folders))
    return [_read(name, folder, complete) for name, folder in zip(names, folders, strict=True)]


def check_labels(runs: Sequence[RunData]) -> None:
    """Refuse runs whose scores are over different label lists.

    Raises:
        UserError: two runs differ; names both.
    """
    seen = [(run.name, split, s["labels"]) for run in runs for split, s in run.scores.items()]
    for name, split, labels in seen:
        first, _, wanted = seen[0]
        if labels != wanted:
            raise UserError(
                f"runs: {name} ({split}) is scored over the labels {', '.join(labels)}, "
                f"{first} over {', '.join(wanted)}; scores over different label lists cannot be "
                "compared; task.allow_different_labels=true still puts them into one table"
            )


def paths_of(place: str) -> list[Path]:
    """Return the folders that a folder's name or a glob stands for."""
    if glob.has_magic(place):
        return [path for path in _matches(Path(place)) if path.is_dir()]
    return [follow(Path(place))] if follow(Path(place)).is_dir() else []


def _matches(pattern: Path) -> list[Path]:
    """Return the paths that a glob matches; pointer files in the middle are followed."""
    tops, part = [Path(pattern.anchor)], Path()
    for name in pattern.relative_to(pattern.anchor).parts:
        part = part / name
        if name in (LATEST, CHECKPOINT):
            tops, part = _below(tops, part), Path()
    return _below(tops, part) if part.parts else tops


def _below(tops: Sequence[Path], part: Path) -> list[Path]:
    patterns = [str(Path(glob.escape(str(top))) / part) for top in tops]
    found = [path for each in patterns for path in sorted(glob.glob(each))]  # noqa: PTH207
    return [follow(Path(path)) for path in found]


def runs_below(top: Path) -> Iterator[Path]:
    """Yield every run at or below a folder; folders below a run are part of it."""
    for place, folders, files in os.walk(top.resolve()):
        folders.sort()
        folder = Path(place)
        if LATEST in folders and _is_copy(folder / LATEST, folders):
            folders.remove(LATEST)
        if "run.json" in files:
            task = read_record(folder)["config"]["task"]["name"]
            if task == "train" or next(folder.glob("*/metrics.json"), None) is not None:
                yield folder
            if task != "pipeline":
                folders.clear()


def _is_copy(latest: Path, names: Sequence[str]) -> bool:
    """Check whether ``latest`` is a copy of a run next to it, and not a link to it."""
    records = {name: latest.with_name(name) / "run.json" for name in names}
    contents = {name: file.read_bytes() for name, file in records.items() if file.is_file()}
    copied = contents.pop(LATEST, None)
    return copied is not None and copied in contents.values()


def _read(name: str, folder: Path, complete: Complete) -> RunData:
    record = read_record(folder)
    record["config"] = complete(record["config"])
    paths = sorted(folder.glob("*/metrics.json"))
    return RunData(name, folder, record, {path.parent.name: _scores(path) for path in paths})


def _scores(path: Path) -> dict[str, Any]:
    """Read metrics.json; evaluations of earlier versions get their weighted F1 here."""
    scores = read_json(path)
    if "confusion" in scores and "weighted_f1" not in scores:
        f1 = weighted_f1(torch.tensor(scores["confusion"])).item()
        scores["weighted_f1"] = round(100 * f1, 2)
    return scores


def names_of(folders: Sequence[Path]) -> list[str]:
    """Name each run by its folder below the folder that all share."""
    shared = folders[0].parent if len(folders) == 1 else os.path.commonpath(folders)
    names = (os.fsencode(os.path.relpath(folder, shared)) for folder in folders)
    return [name.decode("utf-8", "backslashreplace") for name in names]
