"""Draws a sheet of a split's first clips."""

from __future__ import annotations

from omni_rlvr.parts import PreviewParts
from omni_rlvr.run.clips import clip_dataset
from omni_rlvr.run.lifecycle import recorded
from omni_rlvr.text.terminal import printable
from omni_rlvr.types import Sample, UserError


def draw_preview(parts: PreviewParts) -> None:
    """Draws the sheet into the run's folder."""
    from omni_rlvr.analysis.preview import preview_sheet

    task, sample_rate = parts.task, 16_000
    examples = parts.clips.examples[task.split][: task.num_clips]
    dataset = clip_dataset(parts.clips, examples, None, num_frames=8, sample_rate=sample_rate)
    read = [dataset[i] for i in range(len(dataset))]
    samples = [item for item in read if isinstance(item, Sample)]
    if not samples:
        raise UserError(
            f"task.split={task.split}: none of the first {len(examples)} clips could be read"
        )
    path = parts.place.run_dir / "preview.png"
    with recorded(parts.place, device="cpu") as record:
        lost = [(i.example.id, i.reason) for i in read if not isinstance(i, Sample)]
        for _, why in record.add_skipped(lost):
            print(printable(f"left out: {why}"))
        record.add_notes((s.example.id, note) for s in samples for note in s.notes)
        preview_sheet(
            samples, path, sample_rate=sample_rate, max_reasoning_chars=task.max_reasoning_chars
        )
        record.finish("finished")
    print(f"preview: {path}")
