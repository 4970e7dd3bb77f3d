"""The files that an evaluation of one split leaves: predictions, scores, a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omni_rlvr.analysis.drawing import spared
from omni_rlvr.analysis.plots import confusion_figure
from omni_rlvr.record import append_jsonl, write_json


def write_evaluation(
    folder: Path,
    split: str,
    scores: Mapping[str, Any],
    predictions: Sequence[Mapping[str, object]],
) -> None:
    """Writes predictions.jsonl, metrics.json and confusion.png anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").unlink(missing_ok=True)
    append_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "metrics.json", scores)
    title = f"{split}: WAR {scores['war']:.1f} %, UAR {scores['uar']:.1f} %"
    with spared(folder / "confusion.png"):
        confusion_figure(scores["confusion"], scores["labels"], title, folder / "confusion.png")
