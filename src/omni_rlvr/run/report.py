"""Puts any set of runs side by side, or makes the page of what each modality did."""

from __future__ import annotations

from pathlib import Path

from omni_rlvr.config.compare import completed
from omni_rlvr.folders import whole_files
from omni_rlvr.parts import ReportParts
from omni_rlvr.run.lifecycle import move_latest, recorded


def write_report(parts: ReportParts) -> None:
    """Gathers runs and writes tables, figures and one HTML page into the run's folder."""
    place = parts.place
    with recorded(place, device="cpu") as record:
        with whole_files(place.run_dir) as folder:
            made = _page(parts, folder) if parts.html else _tables(parts, folder)
            files = [place.run_dir / file.relative_to(folder) for file in made]
        record.finish("finished")
    move_latest(place)
    print("written:", *(str(file) for file in files), sep="\n  ")


def _page(parts: ReportParts, folder: Path) -> list[Path]:
    from omni_rlvr.analysis.report.clip_page import write_clip_page

    path = folder / "modalities.html"
    write_clip_page(path, parts.runs)
    return [path]


def _tables(parts: ReportParts, folder: Path) -> list[Path]:
    from omni_rlvr.analysis.report.write import write_all

    task = parts.task
    return write_all(
        folder,
        parts.runs,
        completed,
        baseline=task.baseline,
        allow_different_labels=task.allow_different_labels,
        num_resamples=task.num_resamples,
        max_groups=task.max_groups,
    )
