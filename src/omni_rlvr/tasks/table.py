"""What each task does with its parts: one file a task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from omni_rlvr.assembly import parts as made
from omni_rlvr.assembly.parts import Parts
from omni_rlvr.tasks.attribute.task import attribute_splits
from omni_rlvr.tasks.cache import fill_cache
from omni_rlvr.tasks.dataset.check import check_clips
from omni_rlvr.tasks.dataset.prepare import prepare_clips
from omni_rlvr.tasks.dataset.preview import draw_preview
from omni_rlvr.tasks.evaluate import evaluate_splits
from omni_rlvr.tasks.export import export_checkpoint
from omni_rlvr.tasks.launch.launcher import launch
from omni_rlvr.tasks.pipeline import run_pipeline
from omni_rlvr.tasks.predict import predict_clips
from omni_rlvr.tasks.report.write import write_report
from omni_rlvr.tasks.start import run_from_start
from omni_rlvr.tasks.train import train_stage


def run(parts: Parts) -> None:
    """Does a task.

    Raises:
        UserError: something a user can mend.
    """
    tasks: dict[type, Callable] = {
        made.TrainParts: train_stage,
        made.LaunchParts: launch,
        made.StartedParts: partial(run_from_start, run=run),
        made.EvaluateParts: evaluate_splits,
        made.AttributeParts: attribute_splits,
        made.CacheParts: fill_cache,
        made.CheckParts: check_clips,
        made.PredictParts: predict_clips,
        made.PrepareParts: prepare_clips,
        made.PreviewParts: draw_preview,
        made.ExportParts: export_checkpoint,
        made.ReportParts: write_report,
        made.PipelineParts: partial(run_pipeline, run=run),
    }
    tasks[type(parts)](parts)
