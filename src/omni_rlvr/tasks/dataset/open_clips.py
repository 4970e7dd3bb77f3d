"""Opens or decodes all clips of a data set, several at a time, and notes the faults of each.

Each worker asks a child process of its own (``pool``). Only one ``Finding`` is kept of each clip.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.pool import in_children
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.types import ClipNote, Example, MediaError

PROBE = "omni_rlvr.tasks.dataset.inspection:hear_clip"
INSPECT = "omni_rlvr.tasks.dataset.inspection:inspect_clip"
"""What a worker's child calls: to open a clip and hear its sound, or to decode all of it."""
_NUM_FRAMES = 8
"""Frames that are sampled as training would, where a clip is decoded; R1-Omni's number."""


@dataclass(frozen=True)
class Finding:
    """What is known of a clip after opening it."""

    index: int
    has_picture: bool
    has_sound: bool
    duration_s: float
    reason: str | None
    """Why it cannot be used, or None."""
    notes: tuple[ClipNote, ...] = ()
    """How what a model is shown differs from the file."""


def probe_clips(
    examples: Sequence[Example],
    *,
    make_reader: Callable[[], ClipReader],
    num_workers: int,
    want_video: bool,
    want_audio: bool,
    window_s: float | None = None,
) -> Generator[Finding, None, None]:
    """Open the clips of all examples.

    Args:
        examples: What to open.
        make_reader: Makes the reader of one worker; its child calls ``PROBE`` or ``INSPECT``.
        num_workers: Clips opened at the same time, at least 1.
        want_video: Whether pictures are used: a clip without one is bad.
        want_audio: Whether sound is used: a clip without any is bad if pictures are not.
        window_s: Most seconds of sound that a model takes; None for any number.

    Returns:
        One finding an example, as they come. Leaving early (Ctrl-C) stops the workers.
    """
    request = ClipRequest(
        Sampling.count(_NUM_FRAMES), 16_000, want_video, want_audio, window_s=window_s
    )
    yield from in_children(
        len(examples),
        lambda index, reader: _open(examples[index], index, reader, request),
        make_reader=make_reader,
        num_workers=num_workers,
    )


def _open(example: Example, index: int, reader: ClipReader, request: ClipRequest) -> Finding:
    try:
        clip = reader.read(example.video, example.audio, request)
    except MediaError as error:
        return Finding(index, False, False, 0.0, str(error))
    has_video, has_audio = clip.frames is not None, clip.waveform is not None
    reason = None
    if not ((request.want_video and has_video) or (request.want_audio and has_audio)):
        wanted = "sound" if request.want_audio else "picture"
        reason = f"{example.video or example.audio} has no {wanted}, the only modality in use"
    return Finding(index, has_video, has_audio, clip.duration_s, reason, clip.notes)
