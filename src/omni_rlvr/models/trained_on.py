"""The question and labels that a checkpoint was trained on, which ``predict`` and ``serve`` use.

Checkpoints and exports have them in ``trained_on.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from omni_rlvr.models.loading.hub import is_hub_id
from omni_rlvr.pointers import follow
from omni_rlvr.record import read_json, write_json
from omni_rlvr.types import UserError

FILE = "trained_on.json"


@dataclass(frozen=True)
class TrainedOn:
    """The question that a checkpoint was trained to answer, and its labels."""

    dataset: str
    """The name of the data set."""
    labels: Sequence[str]
    """Its labels; empty if each question has its own answers."""
    question: str | None
    """The question about every clip; None if questions differ between clips."""


def trained_on(dataset: str, labels: Sequence[str], questions: Iterable[str]) -> TrainedOn:
    """Describe a training set by its labels and the questions of its examples."""
    different = set(questions)
    question = different.pop() if len(different) == 1 else None
    return TrainedOn(dataset, list(labels), question)


def write_trained_on(folder: Path, told: TrainedOn | None) -> None:
    """Write the file into a model's folder; do nothing if ``told`` is None."""
    if told is not None:
        write_json(folder / FILE, asdict(told))


def read_trained_on(path: str) -> TrainedOn | None:
    """Read the file of a loaded model; None if another toolkit or an old version wrote the model.

    Args:
        path: Its folder, or its hub id, in which case the file is in the hub's cache by now.

    Raises:
        UserError: The file is damaged.
    """
    file = follow(Path(path)) / FILE
    if is_hub_id(path) and isinstance(cached := try_to_load_from_cache(path, FILE), str):
        file = Path(cached)
    if not file.exists():
        return None
    try:
        told = read_json(file)
        dataset, labels, question = told["dataset"], told["labels"], told["question"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error!r}); copy the checkpoint again, or remove the file and set "
            "task.labels and task.question"
        ) from error
    return TrainedOn(dataset, labels, question)
