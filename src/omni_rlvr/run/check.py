"""Opens every clip of a data set and holds the counts against the published ones."""

from __future__ import annotations

from functools import partial

from omni_rlvr.parts import CheckParts
from omni_rlvr.run.lifecycle import recorded
from omni_rlvr.training.progress import progress_bar


def check_clips(parts: CheckParts) -> None:
    """Checks the splits and leaves check.json; bad clips are an error unless they are skipped."""
    from omni_rlvr.analysis.check import check_split, conclude  # pyarrow: not for --help

    reports, clips, task = [], parts.clips, parts.task
    with recorded(parts.place, device="cpu") as record:
        for split, examples in clips.examples.items():
            with progress_bar(f"checking {split}", len(examples)) as progress:
                advance = partial(progress.advance, progress.task_ids[0])
                reports.append(
                    check_split(
                        split,
                        examples,
                        clips.dataset,
                        clips.modality,
                        task.decode,
                        parts.window_s,
                        advance,
                    )
                )
        conclude(reports, clips.dataset, task.decode, task.max_listed, parts.place.run_dir)
        record.finish("finished")
