"""The files that an evaluation of one split leaves: predictions, scores, a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omni_rlvr.analysis.drawing import spared
from omni_rlvr.analysis.plots import confusion_figure
from omni_rlvr.folders import whole_folder
from omni_rlvr.record import append_jsonl, write_json


def write_evaluation(
    folder: Path,
    split: str,
    scores: Mapping[str, Any],
    predictions: Sequence[Mapping[str, object]],
) -> None:
    """Write predictions.jsonl and metrics.json anew, both or none, and then confusion.png.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    title = f"{split}: WAR {scores['war']:.1f} %, UAR {scores['uar']:.1f} %"
    with whole_folder(folder) as partial:
        append_jsonl(partial / "predictions.jsonl", predictions)
        write_json(partial / "metrics.json", scores)
    with spared(folder / "confusion.png"):
        confusion_figure(scores["confusion"], scores["labels"], title, folder / "confusion.png")
