"""One clip, read: bytes from disk once, frames and waveform from these bytes.

Everything a user may meet in a file comes out as a MediaError that names it. No time limit here:
see ``isolated``.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile

from omni_rlvr.media.audio import read_sidecar, read_track
from omni_rlvr.media.container import (
    Contents,
    Picture,
    Sound,
    look_into,
    need_decoder,
    read_bytes,
    reason,
)
from omni_rlvr.media.sampling import uniform_indices
from omni_rlvr.media.video import Backend, read_frames
from omni_rlvr.types import Clip, MediaError


def read_clip(
    video: Path | None,
    audio: Path | None,
    *,
    num_frames: int,
    sample_rate: int,
    want_video: bool,
    want_audio: bool,
    backend: Backend = "decord",
) -> Clip:
    """Read the picture and the sound of one clip; a file is opened once, and only if needed.

    Args:
        video: The container, or None.
        audio: A sound file that replaces the container's track, or None.
        num_frames: F, frames to sample, at least 1.
        sample_rate: Rate of the waveform, Hz.
        want_video: Whether to decode frames; without, ``frames`` is None.
        want_audio: Whether to decode sound; without, ``waveform`` is None.
        backend: What decodes frames: ``decord`` (PyAV steps in where it cannot) or ``av``.

    Returns:
        The clip. ``waveform`` is None for a container without a sound track and for sound of no
        length. ``duration_s`` is the picture's, or the sound's where only sound was opened.

    Raises:
        MediaError: If a file cannot be read, or ``video`` has no picture and ``want_video`` is set.
    """
    container_needed = want_video or (want_audio and audio is None)
    frames = times_s = waveform = None
    duration_s = 0.0
    if video is not None and container_needed:
        data = read_bytes(video)
        contents = look_into(data, video)
        duration_s = _duration_s(contents)
        if want_video:
            picture = _need_picture(contents, video)
            indices = uniform_indices(len(picture.pts), num_frames)
            frames = _frames(data, picture, indices, video, backend)
            times_s = picture.times_s[indices]
        if want_audio and audio is None and contents.sound is not None:
            waveform = _track(data, contents.sound, sample_rate, video)
    if audio is not None and want_audio:
        waveform = _sidecar(audio, sample_rate)
    if duration_s == 0.0 and waveform is not None:
        duration_s = len(waveform) / sample_rate
    return Clip(frames=frames, waveform=waveform, duration_s=duration_s, frame_times_s=times_s)


def _duration_s(contents: Contents) -> float:
    if contents.picture is not None:
        return contents.picture.duration_s
    return contents.sound.duration_s if contents.sound is not None else 0.0


def _need_picture(contents: Contents, path: Path) -> Picture:
    if contents.picture is None:
        found = "only sound" if contents.sound is not None else "no picture and no sound"
        raise MediaError(
            f"{path}: has no picture stream ({found} in it) but the picture was asked for; "
            "give it as audio (+audio=FILE on the command line, the key audio in an annotation), "
            "or leave the picture out: modality=audio"
        )
    if len(contents.picture.pts) == 0:
        raise MediaError(
            f"{path}: its picture stream has zero frames; convert or download it again"
        )
    need_decoder(contents.picture, path)
    return contents.picture


def _frames(
    data: bytes, picture: Picture, indices: np.ndarray, path: Path, backend: Backend
) -> np.ndarray:
    try:
        return read_frames(data, picture, indices, backend=backend)
    except (MediaError, av.FFmpegError, ValueError) as error:
        raise MediaError(
            f"{path}: its picture cannot be decoded ({reason(error)}); convert or download it again"
        ) from error


def _track(data: bytes, sound: Sound, sample_rate: int, path: Path) -> np.ndarray | None:
    try:
        return read_track(data, sound, sample_rate=sample_rate)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(
            f"{path}: its sound track cannot be decoded ({reason(error)}); "
            "convert or download it again"
        ) from error


def _sidecar(path: Path, sample_rate: int) -> np.ndarray | None:
    """Read a sound file: libsndfile first, FFmpeg for what it does not know (m4a, aac, wma)."""
    data = read_bytes(path)
    try:
        return read_sidecar(data, sample_rate=sample_rate)
    except soundfile.LibsndfileError:
        contents = look_into(data, path)
    if contents.sound is None:
        raise MediaError(f"{path}: was named as a sound file but has no sound track")
    return _track(data, contents.sound, sample_rate, path)
