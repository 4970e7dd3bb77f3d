"""Clips that a release does not have ready, cut from its recordings: each recording decoded once.

Recordings are worked on in child processes. An encoder writes each clip under another name, and the
clip is renamed as soon as it is whole: clips come one by one, so that the same command takes up a
run that was stopped (``folders.whole_files`` would put them in place at the end, all or none).
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
"""What a worker's child calls."""
SPAN_S = 5.0
"""Seconds of a recording that may take as long as reading one clip."""


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
    """What became of a cut."""

    cut: Cut
    failure: str | None
    """Why there is no clip, or None."""


def is_there(cut: Cut) -> bool:
    """Return whether a clip was made and nothing that it is made of has changed since."""
    if not cut.clip.exists():
        return False
    made = cut.clip.stat().st_mtime_ns
    parts = (cut.source, cut.sound)
    return all(part.stat().st_mtime_ns <= made for part in parts if part.exists())


def cut_all(
    cuts: Sequence[Cut], folder: Path, dataset: DatasetConfig
) -> Generator[list[Attempt], None, None]:
    """Make clips.

    Args:
        cuts: All that are to be made, of any recordings.
        folder: For unfinished clips, on the file system of the finished ones.
        dataset: The config, which limits how recordings are read and how many at a time.

    Returns:
        The attempts of one recording at a time, as they come. Leaving early stops the workers.
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
