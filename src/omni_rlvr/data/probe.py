"""Opens or decodes all clips of a data set, several at a time, and notes what is wrong with which.

Each worker thread asks a child process of its own (``media.isolated``), so a file that hangs or
crashes a decoder costs its time limit and nothing else. Nothing is kept of a clip but a line.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from omni_rlvr.media.isolated import ClipReader
from omni_rlvr.types import Clip, Example, MediaError

PROBE = "omni_rlvr.media.probe:probe_clip"
INSPECT = "omni_rlvr.media.inspection:inspect_clip"
"""What a worker's child calls: to open a clip, or to decode all of it."""
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


def probe_clips(
    examples: Sequence[Example],
    *,
    make_reader: Callable[[], ClipReader],
    num_workers: int,
    want_video: bool,
    want_audio: bool,
) -> Generator[Finding, None, None]:
    """Open the clips of all examples.

    Args:
        examples: What to open.
        make_reader: Makes the reader of one worker; its child calls ``PROBE`` or ``INSPECT``.
        num_workers: Clips opened at the same time, at least 1.
        want_video: Whether pictures are used: a clip without one is bad.
        want_audio: Whether sound is used: a clip without any is bad if pictures are not.

    Returns:
        One finding an example, as they come. Leaving early (Ctrl-C) stops the workers.
    """
    numbers = iter(range(len(examples)))
    lock, stop = threading.Lock(), threading.Event()
    found: queue.Queue[Finding | BaseException] = queue.Queue(maxsize=4 * num_workers)

    def work(reader: ClipReader) -> None:
        while not stop.is_set():
            with lock:
                index = next(numbers, None)
            if index is None:
                return
            try:
                found.put(_open(examples[index], index, reader, want_video, want_audio))
            except Exception as error:  # a fault of ours: the main thread raises it
                found.put(error)
                return

    with ExitStack() as stack:
        readers = [stack.enter_context(make_reader()) for _ in range(num_workers)]
        threads = [threading.Thread(target=work, args=(r,), daemon=True) for r in readers]
        stack.callback(_finish, threads, stop, found)
        for thread in threads:
            thread.start()
        for _ in range(len(examples)):
            finding = found.get()
            if isinstance(finding, BaseException):
                raise finding
            yield finding


def _finish(threads: Sequence[threading.Thread], stop: threading.Event, found: queue.Queue) -> None:
    """Let every worker end its clip (within the time limit of reading one)."""
    stop.set()
    while any(thread.is_alive() for thread in threads):
        try:
            found.get(timeout=0.05)  # room for what a worker is about to hand over
        except queue.Empty:
            continue


def _open(
    example: Example, index: int, reader: ClipReader, want_video: bool, want_audio: bool
) -> Finding:
    try:
        clip = reader.read(
            example.video,
            example.audio,
            num_frames=_NUM_FRAMES,
            sample_rate=16_000,
            want_video=want_video and example.video is not None,
            want_audio=want_audio,
        )
    except MediaError as error:
        return Finding(index, False, False, 0.0, str(error))
    return Finding(
        index,
        clip.frames is not None,
        clip.waveform is not None,
        clip.duration_s,
        _unusable(clip, example, want_video, want_audio),
    )


def _unusable(clip: Clip, example: Example, want_video: bool, want_audio: bool) -> str | None:
    """Why the modality in use cannot work with a clip that opens."""
    usable = (want_video and clip.frames is not None) or (want_audio and clip.waveform is not None)
    if usable:
        return None
    wanted = "sound" if want_audio else "picture"
    return f"{example.video or example.audio} has no {wanted}, the only modality in use"
