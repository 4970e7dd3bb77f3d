"""Read a clip, or only open it: each file is read from disk once and decoded from memory.

Every fault of a file becomes a MediaError that names the file. ``sandbox`` adds a time limit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from omni_rlvr.media.audio import Heard, has_samples, read_sidecar, read_track, sidecar_s
from omni_rlvr.media.container import (
    Contents,
    Sound,
    decoding,
    joined_files,
    look_into,
    read_bytes,
    reason,
)
from omni_rlvr.media.frame_sampling import Sampling, sound_pieces
from omni_rlvr.media.picture import Picture, need_readable
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sound_file import finish_header, is_sound_file, split_joined
from omni_rlvr.media.timeline import is_short
from omni_rlvr.media.video import read_frames
from omni_rlvr.types import Clip, ClipNote, MediaError

MAX_PADDING_S = 0.25
"""Seconds of silence that a codec may add. Sound that exceeds the window by less loses its end
without a note."""


def read_clip(video: Path | None, audio: Path | None, request: ClipRequest) -> Clip:
    """Read the picture and the sound of one clip; a file is opened once, and only if needed.

    Args:
        video: The container, or None.
        audio: A sound file that replaces the container's track, or None.
        request: What to read of them.

    Returns:
        The clip. ``waveform`` is None for a container without a sound track and for sound of no
        length. ``duration_s`` is the picture's, or the sound's if only sound was opened.

    Raises:
        MediaError: A file cannot be read, or ``video`` has no picture and one is wanted.
    """
    sample_rate = request.sample_rate
    contents = heard = frames = waveform = times_s = None
    duration_s, notes = 0.0, tuple[ClipNote, ...]()
    if video is not None and (request.want_video or (request.want_audio and audio is None)):
        data = read_bytes(video)
        contents = look_into(data, video)
        streams = (contents.picture, contents.sound)
        duration_s = next((stream.duration_s for stream in streams if stream is not None), 0.0)
        notes = contents.notes
        if request.want_video:
            picture = _need_picture(contents, video)
            indices = request.sampling.indices(picture.times_s, picture.duration_s)
            with decoding(video, "picture"):
                frames = read_frames(data, picture, indices, backend=request.backend)
                if request.frame_size is not None:
                    frames = request.frame_size.resized(frames)
            times_s = picture.times_s[indices]
        if request.want_audio and audio is None and contents.sound is not None:
            if contents.picture is None and is_sound_file(data):
                heard = _sound_file(data, sample_rate, video)
            else:
                heard = read_track(data, contents.sound, video, sample_rate=sample_rate)
    if request.want_audio and audio is not None:
        heard = _sound_file(read_bytes(audio), sample_rate, audio)
    if heard is not None:
        duration_s = duration_s or len(heard.waveform) / sample_rate
        if request.window_s is not None:
            window = round(request.window_s * sample_rate)
            if contents is None and video is not None and len(heard.waveform) > window:
                contents = look_into(read_bytes(video), video)
            heard = _within(window, heard, contents, request)
        waveform, notes = heard.waveform, (*notes, *heard.notes)
    return Clip(frames, waveform, duration_s, times_s, tuple(dict.fromkeys(notes)))


def _within(window: int, heard: Heard, contents: Contents | None, request: ClipRequest) -> Heard:
    """Cut a sound that is longer than the window to the pieces around the sampled frames.

    The times of the frames are used even if no frame is read: leaving out the picture must not
    change what the model hears.
    """
    wave, num_samples = heard.waveform, len(heard.waveform)
    sampling, sample_rate = request.sampling, request.sample_rate
    excess_s = (num_samples - window) / sample_rate
    if excess_s <= (MAX_PADDING_S if heard.is_padded else 0.0):
        return replace(heard, waveform=wave[:window])
    picture = None if contents is None else contents.picture
    if picture is not None and len(picture.pts):
        indices = sampling.indices(picture.times_s, picture.duration_s)
        centres = picture.times_s[indices] * sample_rate
    else:
        centres = sampling.middles(num_samples / sample_rate) * num_samples
    pieces = sound_pieces(centres, num_samples, window)
    text = (
        f"{excess_s:.2f} of the {num_samples / sample_rate:.2f} s of its sound are not used: the "
        f"model takes {window / sample_rate:g} s, cut out around the sampled frames"
    )
    notes = (*heard.notes, ClipNote("cut_sound", text))
    return replace(heard, waveform=np.concatenate([wave[p] for p in pieces]), notes=notes)


def _need_picture(contents: Contents, path: Path) -> Picture:
    if contents.picture is None:
        found = "only sound" if contents.sound is not None else "no picture and no sound"
        raise MediaError(
            f"{path}: has no picture stream ({found} in it), but the picture is needed; "
            "give it as audio (+audio=FILE on the command line, the key audio in an annotation), "
            "or set modality=audio"
        )
    if len(contents.picture.pts) == 0:
        raise MediaError(
            f"{path}: its picture stream has zero frames; convert or download it again"
        )
    need_readable(contents.picture, path)
    return contents.picture


def _sound_file(data: bytes, sample_rate: int, path: Path) -> Heard | None:
    """Read a sound file with libsndfile, or with FFmpeg if that cannot (m4a, aac, wma).

    Joined files are read one after the other. libsndfile may stop early in a compressed file:
    FFmpeg counts the packets, and reads the file if libsndfile gave less.
    """
    finished = [finish_header(part) for part in split_joined(data)]
    notes = tuple(dict.fromkeys(note for _, found in finished for note in found))
    try:
        heard = read_sidecar([part for part, _ in finished], path, sample_rate=sample_rate)
    except soundfile.LibsndfileError as error:
        sound, found = other_sound(data, path, error.error_string)
        heard = read_track(data, sound, path, sample_rate=sample_rate)
        more = (joined_files(len(finished)),) if len(finished) > 1 else ()
        return heard and replace(heard, notes=(*notes, *more, *found, *heard.notes))
    except ValueError as error:
        raise MediaError(
            f"{path}: its sound makes no sense ({reason(error)}); convert it again"
        ) from error
    if heard is None:
        return None
    heard = replace(heard, notes=(*notes, *heard.notes))
    if len(finished) > 1 or not (heard.is_padded or data[:4] == b"fLaC"):
        return heard
    try:
        track = look_into(data, path).sound
    except MediaError:  # FFmpeg cannot open it: there is nothing to compare with
        return heard
    if track is not None and is_short(heard.decoded_s, track.promised_s):
        return read_track(data, track, path, sample_rate=sample_rate)
    return heard


def other_sound(data: bytes, path: Path, why: str) -> tuple[Sound, tuple[ClipNote, ...]]:
    """Find the sound track, and the notes, of a sound file that libsndfile cannot read.

    Args:
        data: The whole file.
        path: Where it came from, for messages.
        why: The reason that libsndfile gives.

    Raises:
        MediaError: FFmpeg cannot open the file either, or it has no sound track.
    """
    try:
        contents = look_into(data, path)
    except MediaError as error:
        if not is_sound_file(data):
            raise
        raise MediaError(
            f"{path}: is a sound file that is cut short or damaged ({why}); "
            "copy or download it again"
        ) from error
    if contents.sound is None:
        raise MediaError(f"{path}: was named as a sound file but has no sound track")
    return contents.sound, contents.notes


def probe_clip(video: Path | None, audio: Path | None, request: ClipRequest) -> Clip:
    """Open one clip without decoding all of it: one frame, and the first samples of its sound.

    It finds every error that ``read_clip`` raises when it opens a file, a stream without a
    decoder, and a broken first packet. A fault further on is found only by ``read_clip``.

    Args:
        video: As ``read_clip``.
        audio: As ``read_clip``.
        request: ``want_video`` is whether a picture must be there, ``want_audio`` whether the
            container's sound must have a decoder; a clip may be without sound.

    Returns:
        The clip. If it has a picture, ``frames`` has one frame and ``frame_times_s`` the times of
        all frames that would be sampled; if it has sound, ``waveform`` is empty, or else None.

    Raises:
        MediaError: As ``read_clip``.
    """
    has_sound = False
    frames, times_s, duration_s = None, None, 0.0
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
        if contents.picture is not None and len(contents.picture.pts):
            shown = contents.picture.times_s
            times_s = shown[request.sampling.indices(shown, contents.picture.duration_s)]
        if contents.sound is not None and audio is None:
            has_sound = not request.want_audio or has_samples(data, contents.sound, video)
            duration_s = duration_s or contents.sound.duration_s
    if audio is not None:
        sound_s = _sidecar_s(audio)
        has_sound = sound_s > 0
        duration_s = duration_s or sound_s
    waveform = np.zeros(0, dtype=np.float32) if has_sound else None
    return Clip(frames, waveform, duration_s, times_s, notes)


def _sidecar_s(path: Path) -> float:
    """Return the length of a sound file in seconds; 0 if it holds no samples."""
    data = read_bytes(path)
    try:
        return sidecar_s([finish_header(part)[0] for part in split_joined(data)], path)
    except soundfile.LibsndfileError as error:
        sound, _ = other_sound(data, path, error.error_string)
    return max(sound.promised_s, 1e-3) if has_samples(data, sound, path) else 0.0
