"""Cut clips from the recordings of a data set that is released without them.

Child processes decode each recording once. A clip is encoded under a temporary name and renamed as
soon as it is complete, so that the same command continues a run that was stopped
(``folders.whole_files`` would put all clips in place at the end, or none).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from omni_rlvr.config.dataset import DatasetConfig
from omni_rlvr.data.dataset import clip_reader
from omni_rlvr.media.sandbox.pool import in_children
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.types import MediaError

CUT = "omni_rlvr.tasks.dataset.split_screen:cut_clips"
"""The function that a worker's child process calls."""
SPAN_S = 5.0
"""The time limit of a recording is that of one clip for every this many seconds of it."""


@dataclass(frozen=True)
class Cut:
    """A clip to make: a time span of one half of a split screen, with a sound of its own."""

    source: Path
    """The recording."""
    half: str
    """Which half of its picture: "left" or "right"."""
    start_s: float
    end_s: float
    sound: Path
    """The sound file of the clip, taken whole."""
    clip: Path
    """The mp4 to write."""


@runtime_checkable
class CutReader(Protocol):
    """A reader whose clips must be cut before they can be read."""

    def cuts(self) -> list[Cut]:
        """Return how each clip of the split is cut."""
        ...


@dataclass(frozen=True)
class Attempt:
    """The outcome of a cut."""

    cut: Cut
    failure: str | None
    """Why the clip could not be made; None if it was."""


def is_there(cut: Cut) -> bool:
    """Tell whether a clip was made and its recording and sound file have not changed since."""
    if not cut.clip.exists():
        return False
    made = cut.clip.stat().st_mtime_ns
    parts = (cut.source, cut.sound)
    return all(part.stat().st_mtime_ns <= made for part in parts if part.exists())


def cut_all(
    cuts: Sequence[Cut], folder: Path, dataset: DatasetConfig
) -> Generator[list[Attempt], None, None]:
    """Make clips, one recording after the other in each worker.

    Args:
        cuts: The clips to make, of any recordings.
        folder: For unfinished clips, on the file system of the finished ones.
        dataset: The config, which limits how recordings are read and how many at a time.

    Returns:
        The attempts of one recording at a time, as they finish. Closing the generator early stops
        the workers.
    """
    recordings: dict[Path, list[Cut]] = {}
    for cut in cuts:
        recordings.setdefault(cut.source, []).append(cut)
    of_each = list(recordings.values())
    yield from in_children(
        len(of_each),
        lambda index, reader: _attempt(of_each[index], folder, reader),
        make_reader=lambda: clip_reader(dataset, CUT),
        num_workers=max(1, min(dataset.num_workers, len(of_each))),
    )


def _attempt(cuts: Sequence[Cut], folder: Path, reader: ClipReader) -> list[Attempt]:
    length = max(1, math.ceil(max(cut.end_s for cut in cuts) / SPAN_S))
    try:
        failures = reader.call((cuts, folder), {}, str(cuts[0].source), length)
    except MediaError as error:
        return [Attempt(cut, str(error)) for cut in cuts]
    assert isinstance(failures, list)  # what the child's function returns
    return [Attempt(cut, failure) for cut, failure in zip(cuts, failures, strict=True)]
