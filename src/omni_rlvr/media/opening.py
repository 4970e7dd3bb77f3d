"""Opens a clip without decoding all of it: one frame, and the first samples of its sound.

``probe_clip`` refuses what ``clip.read_clip`` refuses when it opens a file, and a stream that has
no decoder or whose first packet is broken. A fault in the middle of a file is found only by
reading the whole file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from omni_rlvr.media.audio import has_samples, sidecar_s
from omni_rlvr.media.clip import other_sound, read_clip
from omni_rlvr.media.container import look_into, read_bytes
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sound_file import finish_header, split_joined
from omni_rlvr.types import Clip, ClipNote


def probe_clip(video: Path | None, audio: Path | None, request: ClipRequest) -> Clip:
    """Open one clip as ``clip.read_clip`` would, for ``sandbox.reader.ClipReader``.

    Args:
        video: As ``read_clip``.
        audio: As ``read_clip``.
        request: ``want_video`` is whether a picture must be there, ``want_audio`` whether the
            container's sound must have a decoder; a clip may be without sound.

    Returns:
        The clip with its first frame, if it has a picture, and an empty waveform if it has sound.

    Raises:
        MediaError: As ``read_clip``.
    """
    has_sound = False
    frames, duration_s = None, 0.0
    notes: tuple[ClipNote, ...] = ()
    if video is not None:
        data = read_bytes(video)
        contents = look_into(data, video)
        notes = contents.notes
        if contents.picture is not None or request.want_video:
            one_frame = replace(
                request, sampling=Sampling.count(1), want_video=True, want_audio=False
            )
            seen = read_clip(video, None, one_frame)
            frames, duration_s = seen.frames, seen.duration_s
        if contents.sound is not None and audio is None:
            has_sound = not request.want_audio or has_samples(data, contents.sound, video)
            duration_s = duration_s or contents.sound.duration_s
    if audio is not None:
        sound_s = _sidecar_s(audio)
        has_sound = sound_s > 0
        duration_s = duration_s or sound_s
    waveform = np.zeros(0, dtype=np.float32) if has_sound else None
    return Clip(frames, waveform, duration_s, notes=notes)


def _sidecar_s(path: Path) -> float:
    """Read the seconds of a sound file; 0 if it holds no samples."""
    data = read_bytes(path)
    try:
        return sidecar_s([finish_header(part)[0] for part in split_joined(data)], path)
    except soundfile.LibsndfileError as error:
        sound, _ = other_sound(data, path, error.error_string)
    return max(sound.promised_s, 1e-3) if has_samples(data, sound, path) else 0.0
