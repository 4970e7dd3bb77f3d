"""What is in a clip, without decoding all of it: one frame, and the first of the sound.

It refuses what ``clip.read_clip`` would refuse when opening, and finds a stream that has no decoder
or whose first packet is broken. A fault in the middle of a file is found by reading it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import soundfile

from omni_rlvr.media.audio import has_samples, sidecar_s
from omni_rlvr.media.clip import other_contents, read_clip
from omni_rlvr.media.container import (
    Sound,
    look_into,
    need_sound,
    read_bytes,
    undecodable,
)
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sound_file import finish_header, split_joined
from omni_rlvr.types import Clip, ClipNote, MediaError

_NO_SOUND = np.zeros(0, dtype=np.float32)


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
            has_sound = not request.want_audio or _has_samples(data, contents.sound, video)
            duration_s = duration_s or contents.sound.duration_s
    if audio is not None:
        sound_s = _sidecar_s(audio)
        has_sound = sound_s > 0
        duration_s = duration_s or sound_s
    return Clip(frames, _NO_SOUND if has_sound else None, duration_s, notes=notes)


def _has_samples(data: bytes, sound: Sound, path: Path) -> bool:
    try:
        return has_samples(data, sound)
    except (av.FFmpegError, ValueError) as error:
        raise undecodable(path, "sound track", error) from error


def _sidecar_s(path: Path) -> float:
    """Seconds of a sound file; 0 if it holds no samples."""
    data = read_bytes(path)
    try:
        return sidecar_s([finish_header(part)[0] for part in split_joined(data)])
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None
    except soundfile.LibsndfileError as error:
        sound = need_sound(other_contents(data, path, error.error_string), path)
    return max(sound.promised_s, 1e-3) if _has_samples(data, sound, path) else 0.0
