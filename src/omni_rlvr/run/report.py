"""Puts any set of runs side by side."""

from __future__ import annotations

from omni_rlvr.parts import ReportParts
from omni_rlvr.run.lifecycle import move_latest, recorded


def write_report(parts: ReportParts) -> None:
    """Gathers runs and writes tables, figures and one HTML page into the run's folder."""
    from omni_rlvr.analysis.report.write import write_all

    place, task = parts.place, parts.task
    with recorded(place, device="cpu") as record:
        files = write_all(
            place.run_dir,
            parts.runs,
            baseline=task.baseline,
            allow_different_labels=task.allow_different_labels,
            num_resamples=task.num_resamples,
            max_groups=task.max_groups,
        )
        record.finish("finished")
    move_latest(place)
    print("written:", *(str(file) for file in files), sep="\n  ")
