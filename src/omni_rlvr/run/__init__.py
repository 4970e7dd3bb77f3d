"""What each task does with its parts: one file a task."""

from __future__ import annotations

from omni_rlvr.parts import (
    CacheParts,
    EvaluateParts,
    Parts,
    PreviewParts,
    ReportParts,
    StartedParts,
    TrainParts,
)
from omni_rlvr.run.cache import fill_cache
from omni_rlvr.run.evaluate import evaluate_splits
from omni_rlvr.run.pipeline import run_pipeline
from omni_rlvr.run.preview import draw_preview
from omni_rlvr.run.report import write_report
from omni_rlvr.run.start import run_from_start
from omni_rlvr.run.train import train_stage


def run(parts: Parts) -> None:
    """Does a task.

    Raises:
        UserError: something a user can mend.
    """
    if isinstance(parts, TrainParts):
        train_stage(parts)
    elif isinstance(parts, StartedParts):
        run_from_start(parts, run)
    elif isinstance(parts, ReportParts):
        write_report(parts)
    elif isinstance(parts, EvaluateParts):
        evaluate_splits(parts)
    elif isinstance(parts, CacheParts):
        fill_cache(parts)
    elif isinstance(parts, PreviewParts):
        draw_preview(parts)
    else:
        run_pipeline(parts, run)
